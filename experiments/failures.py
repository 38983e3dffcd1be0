"""How a run that fails ends: at once, in all processes, saying why.

What fails in one of several processes would leave the others waiting for it,
and it for them when it leaves in order: minutes, after which jax aborts them
without a word on what was wrong. So it tells them before it leaves, and a
thread of theirs ends them, whatever they wait for.
"""

import contextlib
import linecache
import os
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

import jax

# What jax's processes tell each other by has no public name.
from jax._src import distributed

GO_ON = (
  "The same command, started in all processes, goes on from the last "
  "checkpoint."
)
_KEY = "paradiff/failure"
_LISTEN_SECS = 1.0
# So long the first process stays, which keeps the words: where it is missed
# before they are heard, jax aborts the others.
_LINGER_SECS = 4.0
_IN_LOOP = "_paradiff_in_loop"
_PACKAGES = ("__main__", "experiments", "paradiff")
_last_word = threading.Lock()  # one thread has it


def _client() -> Any:
  return distributed.global_state.client


def leave(words: str, *, told: str = "") -> NoReturn:
  """Leave with code 1, without waiting for the other processes.

  Args:
    words: what the log of this process ends with.
    told: one line to the others, if they are to hear of it from here.
  """
  with _last_word:
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()
    sys.stdout.flush()
    # Unless another told first, or the one that keeps the words is gone.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      if told:
        _client().key_value_set(
          _KEY, f"process {jax.process_index()} failed: {told}"
        )
    if jax.process_index() == 0:
      time.sleep(_LINGER_SECS)
    os._exit(1)


def heard() -> str | None:
  """Return what a process that failed has told; None if none has.

  Raises:
    jax.errors.JaxRuntimeError: if what was told can no longer be asked for.
  """
  try:
    return _client().key_value_try_get(_KEY)
  except jax.errors.JaxRuntimeError as error:
    if str(error).startswith("NOT_FOUND"):
      return None
    raise


def leave_lost(error: BaseException) -> NoReturn:
  """Leave after an exchange with the others has failed.

  The one that is gone may have told why; else the exchange is what is known.
  """
  lost = f"another process of the run must be gone, got {error}"
  words, told = f"error: {lost}\n{GO_ON}", ""
  try:
    why = heard()
    if why is None:
      told = line_of(lost)
    else:
      words = f"error: {why}\n{GO_ON}"
  except jax.errors.JaxRuntimeError:
    pass  # It was the first. Before jax aborts this one there is no time.
  leave(words, told=told)


def line_of(text: str) -> str:
  """Return the first line of a text."""
  return text.strip().partition("\n")[0]


def listen() -> None:
  """From now on, leave as soon as another process tells that it failed."""

  def wait() -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError):
      while (told := heard()) is None:
        time.sleep(_LISTEN_SECS)
      leave(f"error: {told}\n{GO_ON}")

  if jax.process_count() > 1:
    threading.Thread(target=wait, name="listen", daemon=True).start()


def mark_in_loop(error: Exception) -> None:
  """Mark an error as one of the loop, not of what it was given."""
  setattr(error, _IN_LOOP, True)


def is_in_loop(error: BaseException) -> bool:
  """Return whether an error was raised in the loop."""
  return getattr(error, _IN_LOOP, False)


def is_refusal(error: BaseException) -> bool:
  """Return whether an error says by itself what is wrong with what was given.

  That is a ValueError that this project raised before the loop. One of a
  library, or of an unpacking, says little without where it came from.
  """
  if not isinstance(error, ValueError) or is_in_loop(error):
    return False
  *_, (frame, line) = traceback.walk_tb(error.__traceback__)
  package = frame.f_globals.get("__name__", "").partition(".")[0]
  text = linecache.getline(frame.f_code.co_filename, line)
  return package in _PACKAGES and text.lstrip().startswith("raise ")
