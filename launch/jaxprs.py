"""Floating-point operations of a traced program: those of its products."""

import math
from typing import Any


def flops(jaxpr: Any) -> float:
  """Return the operations of all products of matrices in a jaxpr.

  A multiply-add is two. The body of a loop counts as often as it runs, of the
  branches of a condition the one with the most; kernels written by hand count
  nothing.

  Args:
    jaxpr: as `jax.make_jaxpr` gives it, of whole arrays.

  Raises:
    ValueError: if there is a loop whose length is not known.
  """
  total = 0.0
  for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    match eqn.primitive.name:
      case "dot_general":
        (axes, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        inner = math.prod(shape[axis] for axis in axes)
        total += 2.0 * inner * eqn.outvars[0].aval.size
      case "pallas_call":
        pass
      case "while":
        if flops(eqn.params["body_jaxpr"]):
          raise ValueError("loops with products must have a known length")
      case "cond":
        total += max(flops(branch) for branch in eqn.params["branches"])
      case name:
        times = eqn.params["length"] if name == "scan" else 1
        total += times * sum(map(flops, _inside(eqn.params)))
  return total


def _inside(params: dict[str, Any]) -> list[Any]:
  """Return the jaxprs among the parameters of an equation."""
  return [
    value
    for value in params.values()
    if hasattr(getattr(value, "jaxpr", value), "eqns")
  ]
