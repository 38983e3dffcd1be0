"""What `experiments.sample` is asked for, refused before a model is loaded.

What a model can do follows from its family, and its files say only how large
it is; so contradictions are known before gigabytes are read.
"""

import dataclasses
from typing import Any

from absl import flags
from etils import epath

from paradiff import published
from paradiff import shipped
from paradiff import tasks
from paradiff import variants
from paradiff.convert import storage
from paradiff.data import crops
from paradiff.diffusion import settings

TASKS = tuple(
  dict.fromkeys(
    task.name
    for variant in published.VARIANTS.values()
    for task in variant.tasks
  )
)
_PATCH = 32  # pixels of which the sides of an input picture are multiples


@dataclasses.dataclass(frozen=True)
class Asked:
  """Choices about one answer; None is the model's or the task's own.

  Attributes:
    model: shipped model, or folder.
    variant: family of a published checkpoint.
    image_tokenizer: folder of its image tokenizer.
    tokenizer: folder of its text tokenizer.
    picture_size: side of the square whose area its pictures have.
    task: what to do.
    height: of the output in pixels.
    width: likewise.
    text_len: tokens of the answer's text.
    num_steps: steps of the sampler.
    num_image_steps: those at which the picture is updated.
    reference: whether to sample as the published program does.
  """

  model: str = "tiny"
  variant: str | None = None
  image_tokenizer: str | None = None
  tokenizer: str | None = None
  picture_size: int | None = None
  task: str | None = None
  height: int | None = None
  width: int | None = None
  text_len: int | None = None
  num_steps: int | None = None
  num_image_steps: int | None = None
  reference: bool = False

  @property
  def size(self) -> tuple[int, int] | None:
    """Height and width of the output, if asked for."""
    if self.height is None or self.width is None:
      return None
    return self.height, self.width

  @property
  def is_published(self) -> bool:
    """Whether the model is a published one, converted or not."""
    return self.variant is not None or self.is_converted

  @property
  def is_converted(self) -> bool:
    """Whether the model is a folder that `paradiff.convert` wrote."""
    return storage.is_converted(self.model)


DEFAULT = Asked()


def define_flags() -> None:
  """Define the flags: late, for modules may share names."""
  flags.DEFINE_string(
    "model", "tiny", "A shipped model, or a folder or hf://owner/name with one."
  )
  flags.DEFINE_enum(
    "variant",
    None,
    list(published.VARIANTS),
    "Family of a published checkpoint; other folders know what they hold.",
  )
  flags.DEFINE_string(
    "image_tokenizer",
    None,
    "Folder of a published checkpoint's image tokenizer, if not inside it.",
  )
  flags.DEFINE_string(
    "tokenizer", None, "Folder of its text tokenizer, likewise."
  )
  flags.DEFINE_enum("task", None, TASKS, "What to do; default: by the picture.")
  for name, what in (
    ("picture_size", "Side of a square of a published model's picture area."),
    ("height", "Pixels of the output; with --width. Default: the input's."),
    ("width", "Pixels of the output; with --height. Default: the input's."),
    ("text_len", "Tokens of the answer's text; default: the model's."),
    ("num_steps", "Steps of the sampler; default: the task's."),
    ("num_image_steps", "Steps at which the picture is updated; likewise."),
  ):
    flags.DEFINE_integer(name, None, what, lower_bound=1)
  flags.DEFINE_bool(
    "reference",
    False,
    "Sample as the published program does, defects included.",
  )


def from_flags() -> Asked:
  """Return what the flags say."""
  names = [field.name for field in dataclasses.fields(Asked)]
  values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
  return Asked(**values)


def check(asked: Asked, *, has_picture: bool) -> None:
  """Refuse what is known to be wrong before a model is loaded.

  Args:
    asked: the choices.
    has_picture: whether there is an input picture.

  Raises:
    ValueError: naming the flags that contradict the model or each other.
    FileNotFoundError: if there is no such model.
  """
  if (asked.height is None) != (asked.width is None):
    raise ValueError(
      "--height and --width must be given together, got only "
      f"{_given(asked, 'height', 'width')}"
    )
  if asked.is_published:
    _check_published(asked)
  else:
    _check_own(asked)
  if asked.variant is not None:
    settle(published.VARIANTS[asked.variant], asked, has_picture=has_picture)
  elif asked.model in shipped.SHIPPED:
    settle(variants.TINY, asked, has_picture=has_picture)


def _check_published(asked: Asked) -> None:
  """Check where a published model is read from."""
  for name, what in (
    ("variant", asked.variant),
    ("image_tokenizer", asked.image_tokenizer),
    ("tokenizer", asked.tokenizer),
  ):
    if asked.is_converted and what is not None:
      raise ValueError(
        f"--{name} must be left out for a converted model, which knows it, got "
        f"{what!r} for {asked.model!r}"
      )
  if asked.variant is not None and asked.model in shipped.SHIPPED:
    raise ValueError(
      "--variant needs --model=FOLDER of a published checkpoint, got "
      f"{asked.variant!r} for the shipped {asked.model!r}"
    )
  if asked.picture_size is not None and asked.picture_size % _PATCH:
    raise ValueError(
      f"--picture_size must be a multiple of {_PATCH}, got {asked.picture_size}"
    )


def _check_own(asked: Asked) -> None:
  """Check a model of ours, which is complete and knows its sizes."""
  for name in ("image_tokenizer", "tokenizer", "picture_size"):
    if getattr(asked, name) is not None:
      raise ValueError(
        f"--{name} needs a published model (--variant), got "
        f"{getattr(asked, name)!r} for {asked.model!r}"
      )
  if asked.model in shipped.SHIPPED:
    return
  folder = epath.Path("." if asked.model.startswith("hf://") else asked.model)
  is_ours = (folder / "transformer.json").exists()
  if asked.model.startswith("hf://") or (
    (folder / "config.json").exists() and not is_ours
  ):
    raise ValueError(
      "a published checkpoint needs --variant, one of "
      f"{tuple(published.VARIANTS)}, got only --model={asked.model}"
    )
  shipped.find(asked.model)


def settle(
  variant: variants.Variant, asked: Asked, *, has_picture: bool
) -> tuple[tasks.Task | None, settings.SamplerConfig]:
  """Return the task and sampler settings, or refuse what does not fit.

  Args:
    variant: the model, or its family before it is loaded.
    asked: the choices.
    has_picture: whether there is an input picture.

  Returns:
    None for a task of a model that has none.

  Raises:
    ValueError: naming what the model cannot do.
  """
  task = None
  if variant.tasks:
    _check_picture(variant, asked, has_picture=has_picture)
    task = variant.task_for(asked.task, has_picture=has_picture)
    _check_task(variant, task, asked)
  else:
    own = "edit" if has_picture else "generate"
    given = _given(asked, "task", "height", "width", "text_len")
    if given not in ("", f"--task={own}"):
      raise ValueError(
        f"{variant.name} can only {own} in its own size "
        f"{'with' if has_picture else 'without'} an input picture, got {given}"
      )
  config = variant.sampler
  if task is not None and task.sampler is not None:
    config = task.sampler
  if asked.reference:
    if variant.reference_sampler is None or config is not variant.sampler:
      named = "" if task is None else f" for the task {task.name}"
      raise ValueError(
        "--reference needs a model with a published program for text and "
        f"picture together, got {variant.name}, which has none{named}"
      )
    config = variant.reference_sampler
  counts = {
    name: getattr(asked, name)
    for name in ("num_steps", "num_image_steps")
    if getattr(asked, name) is not None
  }
  if len(counts) == 2 and counts["num_image_steps"] > counts["num_steps"]:
    raise ValueError(
      "--num_image_steps must be at most --num_steps, got "
      f"{counts['num_image_steps']} and {counts['num_steps']}"
    )
  return task, dataclasses.replace(config, **counts)


def _given(asked: Asked, *names: str) -> str:
  """Return the choices among the named as flags."""
  values = {name: getattr(asked, name) for name in names}
  return " ".join(f"--{n}={v}" for n, v in values.items() if v is not None)


def _check_picture(
  variant: variants.Variant, asked: Asked, *, has_picture: bool
) -> None:
  """Refuse an input picture that no task reads, or its lack."""
  fitting = [
    task.name
    for task in variant.tasks
    if has_picture == (task.has_source and not task.blank_source)
  ]
  known = [task.name for task in variant.tasks]
  if not fitting or (asked.task in known and asked.task not in fitting):
    wanted = asked.task or " or ".join(known)
    raise ValueError(
      f"the task {wanted} of {variant.name} must have "
      f"{'no' if has_picture else 'an'} input picture (--image), "
      f"got {'one' if has_picture else 'none'}"
    )


def _check_task(
  variant: variants.Variant, task: tasks.Task, asked: Asked
) -> None:
  """Refuse what a task does not write."""
  for what, is_there, names in (
    ("picture", task.has_picture, ("height", "width", "num_image_steps")),
    ("text", task.has_text, ("text_len",)),
    (
      "picture in its family",
      variant.image_tokenizer is not None,
      ("image_tokenizer", "picture_size"),
    ),
  ):
    given = _given(asked, *names)
    if given and not is_there:
      raise ValueError(
        f"{task.name} of {variant.name} must have a {what} to take "
        f"{given}, got none"
      )
  if asked.height is not None and asked.width is not None:
    crops.check_size(
      height=asked.height,
      width=asked.width,
      multiple=variant.pictures.factor,
    )
