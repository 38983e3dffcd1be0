"""What the published models can be asked for: the words and parts of each task.

A task is data: the order of its sequence, the literal words around a prompt
(they are part of what a checkpoint learned) and how pictures are prepared.

Source: tyfeld/MMaDA-Parallel and Alpha-VLLM/Lumina-DiMOO, `utils/prompt_utils`
and `inference/`; Gen-Verse/MMaDA, `inference_{t2i,mmu}.py`; ML-GSAI/LLaDA,
`chat.py`.
"""

import dataclasses

from paradiff import layout as layout_lib
from paradiff.data import crops
from paradiff.diffusion import guidance
from paradiff.diffusion import settings

READS = ("crop", "square", "squash")


@dataclasses.dataclass(frozen=True)
class Task:
  """One thing that a model does.

  Attributes:
    name: what requests call it.
    prefix: parts of the sequence before the answer, as in `Layout`.
    answer: parts of the answer.
    prompt: words around the prompt, which takes the place of `{prompt}`;
      without that place the words are always the same.
    null_prompt: the same where the prompt is dropped for guidance.
    prompt_ends: whether `eos` follows the prompt.
    reads: "crop" to the nearest legal size, crop to the "square", or "squash"
      to it without keeping the aspect.
    area_scale: the legal sizes have the area of a square of the model's
      picture size times this.
    blank_source: whether a black picture stands in where there is none.
    sampler: settings where they are not the model's own.
  """

  name: str
  prefix: tuple[str, ...]
  answer: tuple[str, ...]
  prompt: str = "{prompt}"
  null_prompt: str = ""
  prompt_ends: bool = False
  reads: str = "crop"
  area_scale: int = 1
  blank_source: bool = False
  sampler: settings.SamplerConfig | None = None

  def __post_init__(self) -> None:
    if self.reads not in READS:
      raise ValueError(f"reads must be one of {READS}, got {self.reads!r}")
    if self.prompt.count("{prompt}") > 1:
      raise ValueError(
        f"prompt must have at most one {{prompt}}, got {self.prompt!r}"
      )

  @property
  def has_source(self) -> bool:
    """Whether an input picture is part of the sequence."""
    return "source" in self.prefix

  @property
  def has_picture(self) -> bool:
    """Whether a picture is part of the answer."""
    return "image" in self.answer

  @property
  def has_text(self) -> bool:
    """Whether a text is part of the answer."""
    return "text" in self.answer

  @property
  def mode(self) -> str:
    """How `data.crops` fits a picture: "crop" or "squash"."""
    return "squash" if self.reads == "squash" else "crop"

  def sizes(self, picture_size: int) -> tuple[crops.Size, ...]:
    """Return the legal sizes of an input picture, (width, height) in pixels.

    Args:
      picture_size: side of the square of a model's pictures.
    """
    side = picture_size * self.area_scale
    return crops.sizes(side) if self.reads == "crop" else ((side, side),)

  def layout(
    self,
    base: layout_lib.Layout,
    *,
    prompt_len: int,
    text_len: int,
    grid: layout_lib.Grid | None,
    source_grids: tuple[layout_lib.Grid, ...],
    null_prompt: tuple[int, ...],
  ) -> layout_lib.Layout:
    """Return the layout of the task's sequences.

    Args:
      base: the model's own layout.
      prompt_len: tokens that there is room for, words around it included.
      text_len: tokens of the answer's text; 0 if it has none.
      grid: of the answer's picture; None if it has none.
      source_grids: of the input pictures.
      null_prompt: ids of the prompt's stand-in; none for the layout's own.
    """
    return dataclasses.replace(
      base,
      grid=grid,
      prompt_len=prompt_len,
      text_len=text_len if self.has_text else 0,
      prefix=self.prefix,
      answer=self.answer,
      source_grids=source_grids,
      prompt_ends=self.prompt_ends,
      null_prompt=null_prompt,
    )

  def words(self, prompt: str) -> str:
    """Return the prompt between the words around it."""
    return self.prompt.replace("{prompt}", prompt)


# The system prompts of the image-to-image families, by what the name of the
# family contains, in the order in which they are looked for.
SYSTEMS = {
  "dense": "Perform dense prediction on the given images.",
  "control": (
    "Generate an image according to the text prompt and the given control "
    "image."
  ),
  "subject": (
    "Generate an image according to the text prompt and the given object image."
  ),
  "edit": (
    "Generate an image applying the following editing instruction based on the "
    "original image."
  ),
  "ref_transfer": (
    "Transform the current image into the style of the provided image."
  ),
  "multi_view": "Generate a view-image based on the given image.",
}
_OTHER = "Generate an image according to the prompt and image."
_GENERATE = "Generate an image according to the text prompt."
_DESCRIBE = (
  "You are a multimodal model that can process both text and images. Answer "
  "the following question based on the provided images. Analyze each image and "
  "combine relevant details to answer."
)
_DENSE = {
  "canny": "canny edge map",
  "hed": "hed edge map",
  "normal": "normal map",
  "sam2mask": "sam2 mask",
  "depth": "depth map",
  "openpose": "pose estimation map",
}


def system_prompt(edit_type: str) -> str:
  """Return the system prompt of an image-to-image family.

  Matched by substring in the order of SYSTEMS, as published: `canny_dense` is
  dense prediction, `canny_pred` none of the families.
  """
  found = [text for part, text in SYSTEMS.items() if part in edit_type]
  return found[0] if found else _OTHER


def user_prompt(edit_type: str, prompt: str) -> str:
  """Return the words that a family puts in place of the user's.

  Args:
    edit_type: for example `depth_dense`, `ref_transfer`, `multi_view_left`.
    prompt: the user's words.

  Returns:
    `prompt` itself, unless the family has words of its own.
  """
  system = system_prompt(edit_type)
  if system == SYSTEMS["dense"]:
    kind = _DENSE.get(edit_type.split("_")[0], "dense map")
    return f"Generate a {kind} according to the image."
  if system == SYSTEMS["ref_transfer"]:
    return system
  if system == SYSTEMS["multi_view"]:
    view = edit_type.rsplit("_", 1)[-1]
    return f"Generate the {view} view based on the provided front view."
  return prompt


def _dimoo(name: str, system: str, **fields: object) -> Task:
  """Return a task of Lumina-DiMOO's and MMaDA-Parallel-A's sequences."""
  words = f"<system>{system}</system><user>"
  task = Task(
    name=name,
    prefix=("prompt", "prompt_end"),
    answer=("answer_start", "image", "text", "answer_end"),
    prompt=words + "{prompt}",
    null_prompt=words + "<uncondition>",
  )
  return dataclasses.replace(task, **fields)  # type: ignore[arg-type]


_WITH_SOURCE = ("prompt", "source", "prompt_end")
_PICTURE = ("answer_start", "image", "answer_end")
_TEXT = ("answer_start", "text", "answer_end")
# The generator of Lumina-DiMOO: 64 steps, all of them picture steps. Differs
# from upstream: the noise on confidence falls (`quirks.constant_image_noise`).
_MASKGIT = settings.SamplerConfig(
  num_steps=64,
  num_image_steps=64,
  image_start_rate=0.0,
  image_temperature=1.0,
  image_noise=1.0,
)
_GENERATE_PICTURE = dataclasses.replace(
  _MASKGIT, image_guidance=guidance.Guidance(text=4.0)
)
_EDIT_PICTURE = dataclasses.replace(
  _MASKGIT, image_guidance=guidance.Guidance(text=2.5, image=4.0)
)
# Block decoding, one word a step.
_ANSWERING = settings.SamplerConfig(
  num_steps=256, num_image_steps=1, text_block_len=32
)


def image_to_image(edit_type: str) -> Task:
  """Return the task of a picture made from pictures, by family.

  Args:
    edit_type: for example `edit_add`, `canny_control`, `depth_dense`.
  """
  task = _dimoo(
    "edit_picture",
    system_prompt(edit_type),
    prefix=_WITH_SOURCE,
    answer=_PICTURE,
    sampler=_EDIT_PICTURE,
  )
  words = user_prompt(edit_type, "{prompt}")
  return dataclasses.replace(task, prompt=task.words(words))


_DIMOO = (
  image_to_image("edit"),
  _dimoo(
    "generate_picture", _GENERATE, answer=_PICTURE, sampler=_GENERATE_PICTURE
  ),
  _dimoo(
    "describe",
    _DESCRIBE,
    prefix=_WITH_SOURCE,
    answer=_TEXT,
    area_scale=2,
    sampler=_ANSWERING,
  ),
)
LUMINA_DIMOO = _DIMOO
PARALLEL_A = (
  _dimoo("edit", SYSTEMS["edit"], prefix=_WITH_SOURCE),
  # Trained for, though no published script asks for it: think, then draw.
  _dimoo(
    "generate",
    _GENERATE,
    sampler=dataclasses.replace(
      _GENERATE_PICTURE, num_steps=128, image_start_rate=0.25
    ),
  ),
  *_DIMOO,
)

_CHAT = (
  "<|start_header_id|>user<|end_header_id|>\n{prompt}<|eot_id|>"
  "<|start_header_id|>assistant<|end_header_id|>\n"
)
_MMADA = (
  Task(
    name="generate_picture",
    prefix=("generate", "bos", "prompt"),
    answer=("image",),
    prompt_ends=True,
    reads="squash",
    sampler=dataclasses.replace(
      _GENERATE_PICTURE, image_guidance=guidance.Guidance(text=3.5)
    ),
  ),
  # The reasoning is given; no published script asks for it.
  Task(
    name="picture_of_reasoning",
    prefix=("reason", "prompt"),
    answer=("image",),
    reads="squash",
    sampler=_MASKGIT,
  ),
  Task(
    name="describe",
    prefix=("describe", "source", "prompt"),
    answer=("text",),
    prompt=_CHAT,
    reads="square",
    sampler=_ANSWERING,
  ),
  Task(
    name="answer",
    prefix=("bos", "prompt"),
    answer=("text",),
    prompt=_CHAT,
    sampler=_ANSWERING,
  ),
)
MMADA = _MMADA
_EDIT_M = Task(
  name="edit",
  prefix=("edit", "source", "bos", "prompt"),
  answer=("image", "bos", "text"),
  prompt_ends=True,
  reads="squash",
)
PARALLEL_M = (
  _EDIT_M,
  # As it was trained: without its own task token, as the edit of a black
  # picture (the switch to the token was never passed on).
  dataclasses.replace(_EDIT_M, name="generate", blank_source=True),
  *_MMADA,
)
LLADA = (
  Task(
    name="answer",
    prefix=("bos", "prompt"),
    answer=("text",),
    prompt=_CHAT.replace("\n", "\n\n"),
    sampler=_ANSWERING,
  ),
)
