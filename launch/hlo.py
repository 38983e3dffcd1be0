"""What a compiled program sends between its devices, read from its text.

XLA's own analysis counts the body of a loop once; here it counts as often as
the loop runs.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_BITS = {"pred": 8, "token": 0, "bf16": 16}  # others end in their bits
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\("
)
_CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|branch_computations|"
  r"called_computations)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CONSTANT = re.compile(r" = [su]\d+\[\][^ ]* constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Traffic:
  """What one device sends by one kind of collective.

  Attributes:
    count: how often it is run.
    num_bytes: that the device sends in all of them.
  """

  count: int
  num_bytes: float


def _sizes(shape: str) -> list[float]:
  """Return the bytes of each array of a shape's text."""
  sizes = []
  for dtype, dims in _ARRAY.findall(shape):
    bits = _BITS.get(dtype)
    if bits is None:
      digits = re.search(r"\d+", dtype)
      bits = int(digits.group()) if digits else 8
    elements = math.prod(int(n) for n in dims.split(",") if n)
    sizes.append(elements * bits / 8)
  return sizes


def _group(line: str) -> int:
  """Return how many devices take part in a collective."""
  found = _MESH_GROUPS.search(line)
  if found:
    sizes = dict(re.findall(r"('[^']*')=(\d+)", found.group(1)))
    return math.prod(int(sizes[a]) for a in re.findall("'[^']*'", found[2]))
  found = _GROUPS.search(line)
  if not found:
    return 1
  return int(found[1]) if found[1] else len(found[2].split(","))


def _sent(kind: str, shape: str, line: str) -> float:
  """Return the bytes that a device sends by one collective, in a ring."""
  largest = max(_sizes(shape), default=0.0)
  group = _group(line)
  share = (group - 1) / group
  match kind:
    case "collective-permute":
      return largest
    case "all-reduce":
      return 2 * largest * share
    case "reduce-scatter":
      # The result is a part of what goes in; a pair of both names the whole.
      whole = largest if len(_sizes(shape)) > 1 else largest * group
      return whole * share
    case _:
      return largest * share


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
  """Return the entry's name and the lines of each computation."""
  entry, name = "", ""
  lines: dict[str, list[str]] = {}
  for line in text.splitlines():
    found = _COMPUTATION.match(line)
    if found:
      name = found.group(1)
      lines[name] = []
      if line.startswith("ENTRY"):
        entry = name
    elif name and line.startswith(" "):
      lines[name].append(line)
  return entry, lines


def _runs(lines: list[str]) -> int:
  """Return how often a loop runs: its counter is compared with one constant."""
  found = [m.group(1) for m in map(_CONSTANT.search, lines) if m]
  return int(found[0]) if len(found) == 1 else 1


def _calls(
  lines: Mapping[str, list[str]], name: str
) -> Iterator[tuple[str, int]]:
  """Yield the computations that one runs, and how often."""
  for line in lines[name]:
    called = [
      n.strip(" %") for g in _CALLED.findall(line) for n in g.split(",")
    ]
    times = 1
    if " while(" in line:
      condition = re.search(r"condition=%?([\w.\-]+)", line)
      times = _runs(lines.get(condition.group(1), [])) if condition else 1
    for other in called:
      if other in lines:
        yield other, times


def traffic(text: str) -> dict[str, Traffic]:
  """Return what one device sends by each kind of collective.

  Both branches of a condition count.

  Args:
    text: of the compiled program, as `compiled.as_text()` gives it.

  Returns:
    By kind, of those in KINDS that occur. Bytes are those of a ring: each
    device sends (n - 1) / n of a gathered or scattered array, and twice that of
    a reduced one.
  """
  entry, lines = _computations(text)
  # A collective that is spread over several fusions has one channel.
  found: dict[str, tuple[str, int, float]] = {}

  def add(name: str, times: int) -> None:
    for line in lines[name]:
      instruction = _INSTRUCTION.match(line)
      if not instruction:
        continue
      label, shape, opcode = instruction.groups()
      kind = opcode.removesuffix("-start")
      if kind in KINDS:
        channel = _CHANNEL.search(line)
        key = channel[1] if channel else f"{name} {label}"
        if times > found.get(key, ("", 0, 0.0))[1]:
          found[key] = (kind, times, _sent(kind, shape, line))
    for other, more in _calls(lines, name):
      add(other, times * more)

  if entry:
    add(entry, 1)
  totals: dict[str, Traffic] = {}
  for kind in KINDS:
    each = [(times, num) for k, times, num in found.values() if k == kind]
    if each:
      sent = sum(times * num for times, num in each)
      totals[kind] = Traffic(sum(times for times, _ in each), sent)
  return totals
