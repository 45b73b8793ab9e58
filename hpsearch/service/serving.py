"""A small HTTP server that connections without a request cannot fill: nobody is known before the request has been read.

A thread for each connection, as in Python's own. What is added are ends: of the time and the bytes that the head of a request
may take, and of the connections that are read from at a time. Where there are too many, the one that began first is closed, so
that a newcomer with a request is always served.
"""

from __future__ import annotations

import contextlib
import io
import socket
import socketserver
import sys
import threading
import time
from collections import OrderedDict
from http.client import HTTPException
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

READING = 64
"""Connections that are read from at a time."""
HEAD_S = 15.0
"""How long the head of a request may take as a whole."""
SILENCE_S = 30.0
"""How long one read of a body, or one write of an answer, may take."""
HEAD_BYTES = 2**16


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._reading: OrderedDict[socket.socket, float] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__(*arguments, **named)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.begin_reading(request, time.monotonic())
        super().process_request(request, client_address)

    def begin_reading(self, connection: socket.socket, began: float) -> None:
        """`connection`, there since `began`, is read from; the oldest of too many is closed."""
        with self._lock:
            self._reading[connection] = began
            if len(self._reading) <= READING:
                return
            oldest = min(self._reading, key=self._reading.__getitem__)
            del self._reading[oldest]
        with contextlib.suppress(OSError):  # Gone already.
            oldest.shutdown(socket.SHUT_RDWR)  # Its thread reads the end, and closes it.

    def end_reading(self, connection: socket.socket) -> None:
        with self._lock:
            self._reading.pop(connection, None)

    def shutdown_request(self, request: Any) -> None:
        self.end_reading(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # A client that went, or was too slow, is no fault of ours.
            super().handle_error(request, client_address)


class Server6(Server):
    address_family = socket.AF_INET6


class Handler(WSGIRequestHandler):
    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(SILENCE_S)
        assert isinstance(self.server, Server)
        self.rfile.close()
        self._bytes = _Bytes(self.connection, self.server)
        self.rfile = io.BufferedReader(self._bytes)

    def parse_request(self) -> bool:
        try:
            return super().parse_request()
        finally:
            self._bytes.in_head = False

    def log_message(self, format: str, *args: Any) -> None:
        """The dashboard polls; a line for each request would bury the address."""


class _Bytes(io.RawIOBase):
    """What a connection sends."""

    def __init__(self, connection: socket.socket, server: Server) -> None:
        self._connection, self._server = connection, server
        self._began, self._count = time.monotonic(), 0
        self.in_head = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.in_head:
            if self._count >= HEAD_BYTES:
                raise HTTPException(f"more than {HEAD_BYTES} bytes")
            left = self._began + HEAD_S - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
        self._server.begin_reading(self._connection, self._began)
        try:
            count = self._connection.recv_into(buffer)
        finally:
            self._server.end_reading(self._connection)
            self._connection.settimeout(SILENCE_S)
        self._count += count
        return count
