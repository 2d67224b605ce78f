"""The program that `preloaded_python.py` offers as a Python: ask the server for a process, follow it to its end.

It is started without site packages and imports little, because its start must be fast.
"""

import json
import os
import signal
import socket
import struct
import sys

LENGTH = struct.Struct("!q")
CODE = struct.Struct("!i")
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(address: str, arguments: list[str]) -> int:
    """Run the arguments in a child of the server. Returns its exit code; a fatal signal of the child ends us too."""
    descriptors = [number for number in map(int, os.listdir("/proc/self/fd")) if _is_open(number)]
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    leads = os.getsid(0) == os.getpid()
    text = json.dumps([arguments, dict(os.environ), os.getcwd(), leads, descriptors]).encode()
    socket.send_fds(server, [LENGTH.pack(len(text))], descriptors)
    server.sendall(text)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: server.sendall(bytes([number])))
    answer = server.recv(CODE.size, socket.MSG_WAITALL)
    if len(answer) < CODE.size:
        return 1  # the server ended
    code = CODE.unpack(answer)[0]
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return int(code)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:  # the descriptor that listed the folder
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
