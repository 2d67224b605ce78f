# The CPU route in a container. For GPUs, see Dockerfile.cuda.
#
#   docker build -t ftrl .
#   docker run --rm --shm-size 8g -v "$PWD/outputs:/ftrl/outputs" ftrl bash run_all.sh --profile smoke
FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends g++ git libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /ftrl
# Files that setup.sh reads come first, so that Docker reuses the installed packages when only code changes.
COPY setup.sh requirements.txt constraints-cpu.txt constraints-cuda.txt ./
RUN bash setup.sh cpu
COPY . .
CMD ["bash", "run_all.sh"]
