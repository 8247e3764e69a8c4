"""What the kernel saw on the loopback interface, over which processes of one machine speak to each
other.
"""

import ctypes
import fcntl
import socket
import struct
from pathlib import Path

_NEW_NETWORK, _GET_FLAGS, _SET_FLAGS, _UP = 0x40000000, 0x8913, 0x8914, 1


def alone_on_loopback() -> bool:
    """Gives this process and its children a network of their own, whose only interface nobody else
    uses; False where that is not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(_NEW_NETWORK):
        return False
    with socket.socket() as any_socket:
        request = fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))
    return True


def loopback_bytes() -> int | None:
    """What the interface has received so far, headers included; None where that cannot be read."""
    path = Path("/proc/net/dev")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:")),
        None,
    )
