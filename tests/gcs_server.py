"""A stand-in for Google Cloud Storage: its JSON interface over memory.

What reads and writes `gs://` paths here are the real clients, gcsfs beneath
`etils.epath` and TensorStore beneath Orbax; they are told another address by
`environment`. Listings, preconditions and generations are those of the
service, as far as the two ask for them.
"""

import http.server
import json
import re
import threading
import urllib.parse
from typing import Any

_DATE = "2026-01-01T00:00:00.000Z"


class Store:
  """Objects by bucket and name, each with the generation of its last write."""

  def __init__(self) -> None:
    self.objects: dict[tuple[str, str], tuple[bytes, int]] = {}
    self.uploads: dict[str, tuple[str, str, bytearray]] = {}
    self.lock = threading.RLock()
    self._generation = 1_000

  def generation(self, key: tuple[str, str]) -> int:
    """Return an object's generation; 0 where there is none."""
    return self.objects[key][1] if key in self.objects else 0

  def write(self, key: tuple[str, str], data: bytes) -> dict[str, Any]:
    """Write an object whole."""
    self._generation += 1
    self.objects[key] = (bytes(data), self._generation)
    return self.facts(key)

  def facts(self, key: tuple[str, str]) -> dict[str, Any]:
    """Return what the service tells of an object."""
    data, generation = self.objects[key]
    return {
      "kind": "storage#object",
      "bucket": key[0],
      "name": key[1],
      "size": str(len(data)),
      "generation": str(generation),
      "metageneration": "1",
      "timeCreated": _DATE,
      "updated": _DATE,
      "storageClass": "STANDARD",
    }

  def listing(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
    """Return one page with all objects and, by delimiter, folders."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    first, stop = query.get("startOffset", ""), query.get("endOffset")
    items, folders = [], set()
    for key in sorted(self.objects):
      name = key[1]
      if key[0] != bucket or not name.startswith(prefix) or name < first:
        continue
      if stop is not None and name >= stop:
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        folders.add(prefix + rest.split(delimiter)[0] + delimiter)
      else:
        items.append(self.facts(key))
    found = {"kind": "storage#objects", "items": items}
    return {**found, "prefixes": sorted(folders)} if folders else found


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  server: "Server"

  def log_message(self, *_: Any) -> None:
    """Say nothing."""

  def _send(
    self, code: int, body: Any = b"", headers: dict[str, str] | None = None
  ) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    self.send_response(code)
    kind = "application/octet-stream"
    if not isinstance(body, bytes):
      kind = "application/json"
    for name, value in {"Content-Type": kind, **(headers or {})}.items():
      self.send_header(name, value)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(data)

  def _body(self) -> bytes:
    if self.headers.get("Transfer-Encoding") == "chunked":
      body = b""
      while size := int(self.rfile.readline(), 16):
        body += self.rfile.read(size)
        self.rfile.readline()
      self.rfile.readline()
      return body
    return self.rfile.read(int(self.headers.get("Content-Length") or 0))

  def _asked(self) -> tuple[str, dict[str, str]]:
    parts = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    return parts.path, query

  def _refused(self, key: tuple[str, str], query: dict[str, str]) -> bool:
    """Answer 412 or 304 where a precondition does not hold."""
    now = str(self.server.store.generation(key))
    if query.get("ifGenerationMatch", now) != now:
      self._send(412, {"error": {"code": 412, "message": "precondition"}})
      return True
    if query.get("ifGenerationNotMatch") == now:
      self._send(304 if self.command == "GET" else 412)
      return True
    return False

  def _missing(self) -> None:
    self._send(404, {"error": {"code": 404, "message": "No such object"}})

  def do_GET(self) -> None:
    path, query = self._asked()
    with self.server.store.lock:
      self._get(path, query)

  do_HEAD = do_GET

  def _get(self, path: str, query: dict[str, str]) -> None:
    store = self.server.store
    if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", path):
      self._send(200, store.listing(match[1], query))
      return
    match = re.fullmatch(r"(/download)?/storage/v1/b/([^/]+)/o/(.+)", path)
    if match is None:  # a bucket
      self._send(200, {"kind": "storage#bucket", "name": path.split("/")[-1]})
      return
    key = (match[2], urllib.parse.unquote(match[3]))
    if key not in store.objects:
      self._missing()
      return
    if self._refused(key, query):
      return
    data, generation = store.objects[key]
    if query.get("alt") != "media":
      self._send(200, store.facts(key))
      return
    headers = {"x-goog-generation": str(generation)}
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
    if span is None:
      self._send(200, data, headers)
      return
    first, last = int(span[1]), int(span[2] or len(data) - 1)
    if first >= len(data):
      self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
      return
    part = data[first : last + 1]
    end = first + len(part) - 1
    headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
    self._send(206, part, headers)

  def do_DELETE(self) -> None:
    path, query = self._asked()
    key = _key(path)
    with self.server.store.lock:
      if key not in self.server.store.objects:
        self._missing()
      elif not self._refused(key, query):
        del self.server.store.objects[key]
        self._send(204)

  def do_POST(self) -> None:
    path, query = self._asked()
    if path.startswith("/resume/"):
      self.do_PUT()
      return
    body = self._body()
    with self.server.store.lock:
      if path.startswith("/batch/"):
        self._batch(body)
      elif path.startswith("/upload/"):
        self._upload(path, query, body)
      else:
        self._copy(path)

  def _upload(self, path: str, query: dict[str, str], body: bytes) -> None:
    store, bucket = self.server.store, path.split("/")[5]
    kind, name = query["uploadType"], query.get("name", "")
    if kind == "multipart":
      head, _, rest = body.partition(b"\r\n\r\n")
      mark = body.split(b"\r\n", 1)[0] or body.split(b"\n", 2)[1]
      del head
      facts, _, rest = rest.partition(b"\r\n")
      name = json.loads(facts)["name"]
      _, _, rest = rest.partition(b"\r\n\r\n")
      body = rest[: rest.rindex(b"\r\n" + mark.strip())]
    elif kind == "resumable":
      number = str(len(store.uploads))
      name = name or json.loads(body)["name"]
      store.uploads[number] = (bucket, name, bytearray())
      url = f"http://{self.headers['Host']}/resume/{number}"
      self._send(200, {}, {"Location": url})
      return
    if not self._refused((bucket, name), query):
      self._send(200, store.write((bucket, name), body))

  def do_PUT(self) -> None:
    body, store = self._body(), self.server.store
    with store.lock:
      bucket, name, data = store.uploads[self.path.rsplit("/", 1)[-1]]
      data += body
      if self.headers.get("Content-Range", "/*").endswith("/*"):
        self._send(308, b"", {"Range": f"bytes=0-{len(data) - 1}"})
      else:
        self._send(200, store.write((bucket, name), bytes(data)))

  def _copy(self, path: str) -> None:
    store = self.server.store
    match = re.fullmatch(
      r"/storage/v1/b/([^/]+)/o/([^/]+)/(moveTo|rewriteTo)(?:/b/([^/]+))?/o/(.+)",
      path,
    )
    assert match is not None, path
    source = (match[1], urllib.parse.unquote(match[2]))
    target = (match[4] or match[1], urllib.parse.unquote(match[5]))
    if source not in store.objects:
      self._missing()
      return
    facts = store.write(target, store.objects[source][0])
    if match[3] == "moveTo":
      del store.objects[source]
      self._send(200, facts)
    else:
      self._send(200, {"done": True, "resource": facts})

  def _batch(self, body: bytes) -> None:
    paths = re.findall(rb"DELETE (\S+) HTTP", body)
    answer = b""
    for number, path in enumerate(paths):
      asked = urllib.parse.urlsplit(path.decode()).path
      self.server.store.objects.pop(_key(asked), None)
      answer += (
        b"--mark\r\nContent-Type: application/http\r\nContent-ID: "
        b"<response-x+%d>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n\r\n" % number
      )
    kind = {"Content-Type": "multipart/mixed; boundary=mark"}
    self._send(200, answer + b"--mark--", kind)


def _key(path: str) -> tuple[str, str]:
  match = re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", path)
  assert match is not None, path
  return match[1], urllib.parse.unquote(match[2])


class Server(http.server.ThreadingHTTPServer):
  """The service on this machine; `with Server() as server:`."""

  daemon_threads = True

  def __init__(self, port: int = 0) -> None:
    super().__init__(("127.0.0.1", port), _Handler)
    self.store = Store()
    threading.Thread(target=self.serve_forever, daemon=True).start()

  def handle_error(self, *_: Any) -> None:
    """Say nothing where a client has gone, as at the end of its process."""

  @property
  def environment(self) -> dict[str, str]:
    """What tells gcsfs and TensorStore to ask here."""
    url = f"http://127.0.0.1:{self.server_address[1]}"
    return {
      "STORAGE_EMULATOR_HOST": url,
      "TENSORSTORE_GCS_HTTP_URL": url,
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }

  def __exit__(self, *_: Any) -> None:
    self.shutdown()
    self.server_close()


if __name__ == "__main__":
  import time

  s = Server(9023)
  while True:
    time.sleep(1)
