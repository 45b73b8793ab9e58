"""A way to a database server that loses answers to COMMIT: the server has done it, and its client does not know."""

from __future__ import annotations

import contextlib
import re
import socket
import threading

from servers import Server

COMMIT = re.compile(rb"\bCOMMIT\b", re.IGNORECASE)
WRITE = re.compile(rb"\b(INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b", re.IGNORECASE)


class Proxy:
    """Forwards connections from a port of its own to `server`; use it in a `with`. No TLS."""

    def __init__(self, server: Server) -> None:
        self._target = ("127.0.0.1", server.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self._armed = threading.Event()
        self.lost = 0
        """Answers that were lost so far."""
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def through(self, url: str) -> str:
        """`url` by way of this proxy."""
        return url.replace(f"127.0.0.1:{self._target[1]}", f"127.0.0.1:{self._listener.getsockname()[1]}")

    def lose_next_answer(self) -> None:
        """Cut the connection at the next COMMIT of a transaction that wrote."""
        self._armed.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        wrote = False
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                wrote = wrote or WRITE.search(data) is not None
                if COMMIT.search(data):
                    if wrote and self._armed.is_set():
                        self._armed.clear()
                        client.shutdown(socket.SHUT_RDWR)  # before the server can answer
                        self.lost += 1
                    wrote = False
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)  # what was sent is still done

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
