# The CPU route in a container; for GPUs see Dockerfile.cuda.
#
#   docker build -t ftrl .
#   docker run --rm --shm-size 8g -v "$PWD/outputs:/ftrl/outputs" ftrl bash run_all.sh --profile smoke
FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends g++ git libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /ftrl
# what set-up depends on comes first, so that a change of code does not install everything again
COPY setup.sh requirements.txt constraints-cpu.txt constraints-cuda.txt ./
RUN bash setup.sh cpu
COPY . .
CMD ["bash", "run_all.sh"]
