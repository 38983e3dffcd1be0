"""From rules and two sets of names to a plan, or to all that does not fit.

The parameters' shapes say which published names must exist, so a missing layer
is as plain as a missing leaf; whatever else is in the checkpoint must be named
by a rule that ignores it.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paradiff import checkpoints
from paradiff.convert import rules as rules_lib
from paradiff.convert import tensors as tensors_lib

FLOATS = ("BF16", "F16", "F32")
_FIELD = re.compile(r"\{(~?\w+)\}")


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One of our parameters and the published tensors that it is made of.

  Attributes:
    target: its path.
    shape: its shape.
    sources: published names, one a layer if `stacked`, else one.
    stacked: whether the leading axis counts `sources`.
    transform: what is done with each.
  """

  target: str
  shape: tuple[int, ...]
  sources: tuple[str, ...]
  stacked: bool
  transform: rules_lib.Transform

  @property
  def part_shape(self) -> tuple[int, ...]:
    """Shape that one published tensor has in our tree."""
    return self.shape[1:] if self.stacked else self.shape

  @property
  def published_shape(self) -> tuple[int, ...]:
    """Shape of each published tensor."""
    return self.transform.published_shape(self.part_shape)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What becomes of every tensor.

  Attributes:
    leaves: every parameter.
    ignored: published names that are not read.
  """

  leaves: tuple[Leaf, ...]
  ignored: tuple[str, ...] = ()


class Mismatch(ValueError):
  """A checkpoint that does not fill the parameters exactly.

  Attributes:
    unmatched: published names that no rule names or no parameter wants.
    unfilled: a line for each parameter, or layer of it, without a tensor.
    misshapen: a line for each tensor of another shape or dtype.
  """

  def __init__(
    self,
    source: str,
    *,
    unmatched: Sequence[str],
    unfilled: Sequence[str],
    misshapen: Sequence[str],
  ) -> None:
    """Write the message, with every name in it."""
    self.unmatched = tuple(unmatched)
    self.unfilled = tuple(unfilled)
    self.misshapen = tuple(misshapen)
    lines = [f"{source} must hold exactly the tensors of this model, got"]
    for title, names in (
      ("tensors that no parameter wants", self.unmatched),
      ("parameters without a tensor", self.unfilled),
      ("tensors of another shape or dtype", self.misshapen),
    ):
      if names:
        lines += [f"{len(names)} {title}:", *(f"  {name}" for name in names)]
    super().__init__("\n".join(lines))


def expected(rules: Sequence[rules_lib.Rule], targets: Any) -> Plan:
  """Return the plan of a whole checkpoint of a tree of parameters.

  Args:
    rules: the rules.
    targets: tree of arrays or shapes.

  Returns:
    The plan; its ignored names are those that a rule spells out.

  Raises:
    Mismatch: if no rule leads to a parameter, or more than one.
  """
  shapes = {
    name: tuple(leaf.shape)
    for name, leaf in checkpoints.flatten(targets).items()
  }
  leaves: dict[str, Leaf] = {}
  twice = []
  for rule in rules:
    for leaf in _leaves(rule, shapes):
      if leaf.target in leaves:
        twice.append(f"{leaf.target}: more than one rule leads to it")
      leaves[leaf.target] = leaf
  orphans = [
    f"{name}: no rule leads to it" for name in shapes.keys() - leaves.keys()
  ]
  if orphans or twice:
    raise Mismatch(
      "the rules", unmatched=(), unfilled=sorted(orphans + twice), misshapen=()
    )
  return Plan(
    leaves=tuple(leaves[name] for name in shapes),
    ignored=tuple(rule.pattern for rule in rules if rule.target is None),
  )


def match(
  rules: Sequence[rules_lib.Rule],
  checkpoint: tensors_lib.Checkpoint,
  targets: Any,
) -> Plan:
  """Return the plan that turns a checkpoint into the tree `targets`.

  Args:
    rules: the rules.
    checkpoint: the published tensors; only their headers are looked at.
    targets: tree of arrays or shapes.

  Returns:
    The plan; its ignored names are those of the checkpoint.

  Raises:
    Mismatch: listing every tensor that is left over, every parameter that is
      left empty and every tensor of another shape or dtype, with its file.
  """
  plan = expected(rules, targets)
  ignored = set(plan.ignored)
  wanted = {name for leaf in plan.leaves for name in leaf.sources}
  unfilled, misshapen = [], []
  for leaf in plan.leaves:
    found = []
    for layer, name in enumerate(leaf.sources):
      if name not in checkpoint:
        place = f"{leaf.target}[{layer}]" if leaf.stacked else leaf.target
        unfilled.append(f"{place}: wants {name}")
      else:
        found.append(checkpoint[name])
    misshapen += _faults(leaf, found)
  unmatched = sorted(set(checkpoint) - wanted - ignored)
  if unmatched or unfilled or misshapen:
    raise Mismatch(
      str(checkpoint.folder),
      unmatched=unmatched,
      unfilled=unfilled,
      misshapen=misshapen,
    )
  present = tuple(name for name in checkpoint if name in ignored)
  return dataclasses.replace(plan, ignored=present)


def _faults(leaf: Leaf, found: Sequence[tensors_lib.LazyTensor]) -> list[str]:
  """Return a line for each tensor that cannot be a part of the leaf."""
  lines = []
  for tensor in found:
    where = f"{tensor.name} in {tensor.path.name}"
    if tensor.shape != leaf.published_shape:
      lines.append(
        f"{where} must be {list(leaf.published_shape)}, got "
        f"{list(tensor.shape)}"
      )
    if tensor.dtype not in FLOATS:
      lines.append(f"{where} must be of {FLOATS}, got {tensor.dtype}")
    elif tensor.dtype != found[0].dtype:
      lines.append(
        f"{where} must be of the dtype of {found[0].name}, {found[0].dtype}, "
        f"got {tensor.dtype}"
      )
  return lines


def _leaves(
  rule: rules_lib.Rule, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Leaf]:
  """Yield what one rule says about each parameter that it leads to."""
  if rule.target is None:
    return
  names = _FIELD.findall(rule.target)
  regex = re.compile(
    _FIELD.sub(r"(0|[1-9][0-9]*)", rule.target)
  )  # paths have no characters that a regular expression reads otherwise
  stacked = [
    field
    for field in _FIELD.findall(rule.pattern)
    if field not in [name.removeprefix("~") for name in names]
  ]
  transform = rules_lib.TRANSFORMS[rule.transform]
  for target, shape in shapes.items():
    found = regex.fullmatch(target)
    if found is None:
      continue
    values = {}
    for name, digits in zip(names, found.groups(), strict=True):
      value = int(digits)
      if name.startswith("~"):
        value = _count(rule.target, name, shapes) - 1 - value
      values[name.removeprefix("~")] = value
    if not transform.accepts(len(shape) - len(stacked)):
      raise ValueError(
        f"{rule.transform} must suit the rank of {target}, got {shape}"
      )
    layers = [{stacked[0]: i} for i in range(shape[0])] if stacked else [{}]
    yield Leaf(
      target=target,
      shape=shape,
      sources=tuple(rule.pattern.format(**values, **each) for each in layers),
      stacked=bool(stacked),
      transform=transform,
    )


def _count(target: str, name: str, shapes: Mapping[str, Any]) -> int:
  """Return how many numbers a reversed field takes among all parameters."""
  prefix = target.split(f"{{{name}}}")[0]
  numbers = [
    int(found[1])
    for path in shapes
    if (found := re.match(rf"{re.escape(prefix)}([0-9]+)", path))
  ]
  return 1 + max(numbers)
