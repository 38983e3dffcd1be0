"""Published checkpoints from files to answers, at random weights."""

import dataclasses
import functools
import pathlib

import numpy as np
import PIL.Image
import pytest
import skimage.data

from benchmarks import published_format
from paradiff import pipeline as pipeline_lib
from paradiff import sharding
from paradiff import tasks
from paradiff.convert import synthetic
from paradiff.data import painting
from paradiff.diffusion import settings


def photograph():
  """Return a real photograph, uint8[400, 600, 3]."""
  return skimage.data.coffee()


def _short(config):
  return dataclasses.replace(config, num_steps=4, num_image_steps=3)


@pytest.mark.parametrize("family", ["parallel_a", "parallel_m"])
def test_a_published_checkpoint_converts_edits_and_exports_back(
  tmp_path, family
):
  report = published_format.run(
    tmp_path,
    family=family,
    sizes=published_format.sizes(family),
    picture=photograph(),
    prompt="Make the sky red.",
    picture_size=96,
    text_len=6,
    change=_short,
  )
  assert report.differing == ()
  assert report.num_files >= 8  # two shards, index, config, three of words ...
  # 3:2 is nearest to 96 x 64 among the sizes of at most 96 x 96 pixels; M
  # squashes to the square.
  shape = (64, 96, 3) if family == "parallel_a" else (96, 96, 3)
  assert report.picture.shape == shape
  assert report.picture.dtype == np.uint8
  assert report.picture.std() > 0


@pytest.fixture(scope="module")
def load(tmp_path_factory):
  """Return a function from a family to its pipeline, loaded once."""

  @functools.cache
  def get(family):
    folder = tmp_path_factory.mktemp(family)
    sizes = synthetic.Sizes()
    if family != "llada":
      sizes = published_format.sizes(family)
    synthetic.build(folder, family, sizes=sizes)
    inside = pathlib.Path(folder) / "image_tokenizer"
    return pipeline_lib.ParallelPipeline.from_pretrained(
      str(folder),
      variant=family,
      image_tokenizer=str(inside) if inside.is_dir() else None,
      picture_size=64,
    )

  return get


def _request(pipe, prompts, pictures, **asked):
  return pipe.request(prompts, pictures, **asked)


def test_ids_come_from_the_files_not_from_a_table(load):
  vocab = load("parallel_a").variant.vocab
  words = load("parallel_a").text_tokenizer
  assert vocab.code_offset == vocab.text_size == len(words)
  assert vocab.prompt_end_id == words.ids["</user>"]
  assert vocab.answer_end_id == words.ids["</answer>"] == vocab.text_size - 1
  assert vocab.mask_id == words.ids["<|mdm_mask|>"]


def test_the_prefix_of_an_edit_is_the_published_template(load):
  pipe = load("parallel_a")
  request = _request(pipe, ["Make it red."], [photograph()], text_len=4)
  layout, vocab = request.layout, pipe.variant.vocab
  prefix = np.asarray(request.condition.prefix)[0]
  valid = np.asarray(request.condition.valid)[0]
  system = pipe.variant.task("edit").prompt.split("{")[0]
  string = f"{system}Make it red.</user>"
  published = pipe.text_tokenizer.fast.encode(string, add_special_tokens=False)
  words = prefix[valid][: len(published) - 1]
  np.testing.assert_array_equal(words, published[:-1])
  rest = prefix[valid][len(published) - 1 :]
  assert (rest[0], rest[-2], rest[-1]) == (
    vocab.soi_id,
    vocab.eoi_id,
    published[-1],
  )
  rows = rest[1:-2].reshape(layout.sources[0][0], -1)
  assert (rows[:, -1] == vocab.newline_id).all()
  codes = rows[:, :-1].reshape(-1) - vocab.code_offset
  assert ((codes >= 0) & (codes < vocab.codebook_size)).all()


def test_the_output_has_the_size_of_the_input_unless_asked_otherwise(load):
  pipe = load("parallel_a")
  wide = _request(pipe, ["x"], [photograph()])
  assert wide.layout.grid == wide.layout.sources[0] == (2, 4)
  other = _request(pipe, ["x"], [photograph()], size=(64, 32))
  assert (other.layout.grid, other.layout.sources) == ((4, 2), ((2, 4),))
  with pytest.raises(ValueError, match="multiple"):
    _request(pipe, ["x"], [photograph()], size=(60, 32))


def test_a_longer_bucket_gives_the_same_answer(load):
  pipe = load("parallel_a")
  picture, config = photograph(), _short(pipe.variant.sampler)
  alone = _request(pipe, ["red"], [picture], text_len=4, config=config)
  long = " ".join(["red sky"] * 16)
  both = _request(pipe, ["red", long], [picture] * 2, text_len=4, config=config)
  assert both.layout.prompt_len > alone.layout.prompt_len
  # Greedy, for noise depends on the batch.
  greedy = dataclasses.replace(config, image_temperature=0.0, image_noise=0.0)
  rows = [
    np.asarray(pipe.sample(dataclasses.replace(r, config=greedy)).tokens)[0]
    for r in (alone, both)
  ]
  np.testing.assert_array_equal(*rows)


def test_what_is_not_painted_keeps_its_codes(load):
  pipe = load("parallel_a")
  picture = photograph()
  mask = np.zeros((2, 4), bool)
  mask[0, 1] = mask[1, 3] = True
  request = _request(
    pipe,
    ["x"],
    [picture],
    text_len=4,
    mask=mask,
    config=_short(pipe.variant.sampler),
  )
  layout = request.layout
  source = np.asarray(request.condition.prefix)[0, layout.source_index]
  answer = np.asarray(request.answer)[0, layout.image_index]
  hidden = answer == pipe.variant.vocab.mask_id
  np.testing.assert_array_equal(hidden, mask.reshape(-1))
  tokens = np.asarray(pipe.sample(request).tokens)[0, layout.image_index]
  np.testing.assert_array_equal(tokens[~hidden], source[~hidden])


def test_a_picture_can_be_painted_beyond_its_border(load):
  pipe = load("parallel_a")
  small = np.asarray(PIL.Image.fromarray(photograph()).resize((32, 32)))
  picture, mask = painting.place(small, (64, 64))
  request = _request(
    pipe,
    ["x"],
    [picture],
    text_len=4,
    mask=mask,
    config=_short(pipe.variant.sampler),
  )
  layout = request.layout
  source = np.asarray(request.condition.prefix)[0, layout.source_index]
  tokens = np.asarray(pipe.sample(request).tokens)[0, layout.image_index]
  kept = ~mask.reshape(-1)
  assert kept.sum() == 4 and layout.grid == (4, 4)
  np.testing.assert_array_equal(tokens[kept], source[kept])


def test_families_of_pictures_from_pictures_bring_their_words(load):
  pipe = load("lumina_dimoo")
  words = []
  for task in (tasks.image_to_image("depth_control"), "edit_picture"):
    request = _request(pipe, ["x"], [photograph()], task=task)
    prefix = np.asarray(request.condition.prefix)
    prompt = prefix[0, request.layout.prompt_span]
    words.append(pipe.text_tokenizer.fast.decode(prompt))
  assert "the given control image" in words[0]
  assert "editing instruction" in words[1]


def test_a_mesh_changes_places_not_answers(tmp_path):
  # An even number of rows, so that two devices can share them.
  sizes = published_format.sizes("parallel_a", spare_rows=4, dtype="F32")
  synthetic.build(tmp_path, "parallel_a", sizes=sizes)
  found = []
  for mesh in (None, sharding.make_mesh(data=2, fsdp=2, tensor=2)):
    pipe = pipeline_lib.ParallelPipeline.from_pretrained(
      str(tmp_path), variant="parallel_a", picture_size=32, mesh=mesh
    )
    output = pipe(
      ["Make it red."] * 4,
      [photograph()] * 4,
      text_len=4,
      config=_short(pipe.variant.sampler),
    )
    found.append(output)
  assert len(pipe.params["head"].sharding.device_set) == 8
  for ours, theirs in zip(*found, strict=True):
    assert ours.text == theirs.text
    difference = ours.picture.astype(int) - theirs.picture.astype(int)
    assert np.abs(difference).max() <= 1


def test_a_drawn_mask_paints_where_it_is_white(load):
  pipe = load("parallel_a")
  drawn = PIL.Image.new("L", (600, 400), 0)
  drawn.paste(255, (300, 0, 600, 400))
  request = _request(pipe, ["x"], [photograph()], mask=drawn)
  hidden = np.asarray(request.answer)[0, request.layout.image_index]
  hidden = (hidden == pipe.variant.vocab.mask_id).reshape(2, 4)
  np.testing.assert_array_equal(hidden, [[False, False, True, True]] * 2)


@pytest.mark.parametrize("family", ["parallel_a", "parallel_m"])
def test_the_published_settings_run_through_the_same_pipeline(load, family):
  pipe = load(family)
  config = dataclasses.replace(
    pipe.variant.reference_sampler, num_steps=4, num_image_steps=3
  )
  output = pipe.edit("x", photograph(), text_len=4, config=config)
  assert output.picture.ndim == 3
  request = _request(pipe, ["x"], [photograph()], config=config)
  assert np.asarray(request.condition.valid).all()
  with pytest.raises(ValueError, match="commits that are final"):
    pipe.sample(request)
  with pytest.raises(ValueError, match="prompts of one batch must have one"):
    _request(pipe, ["x", "much longer"], [photograph()] * 2, config=config)


@pytest.mark.parametrize(
  ("family", "task"),
  [
    ("parallel_a", "generate"),
    ("parallel_a", "describe"),
    ("lumina_dimoo", "edit_picture"),
    ("lumina_dimoo", "generate_picture"),
    ("parallel_m", "generate"),
    ("mmada", "generate_picture"),
    ("mmada", "picture_of_reasoning"),
    ("mmada", "describe"),
    ("llada", "answer"),
  ],
)
def test_families_do_their_tasks(load, family, task):
  pipe = load(family)
  known = pipe.variant.task(task)
  config = _short(known.sampler or pipe.variant.sampler)
  picture = None
  if known.has_source and not known.blank_source:
    picture = photograph()
  request = _request(
    pipe,
    ["What is it?"],
    [picture],
    task=task,
    text_len=8 if known.has_text else None,
    config=config,
  )
  run = pipe.sample(request)
  assert (np.asarray(run.tokens) != pipe.variant.vocab.mask_id).all()
  output = pipe.decode(np.asarray(run.tokens), layout=request.layout)[0]
  assert (output.picture is not None) == known.has_picture
  assert isinstance(output.text, str)


def test_style_transfer_reads_two_pictures(load):
  pipe = load("lumina_dimoo")
  pair = (photograph(), skimage.data.astronaut())
  request = _request(pipe, ["like this"], [pair])
  assert request.layout.sources == ((2, 4), (4, 4))
  # The output has the size of the first, the content.
  assert request.layout.grid == (2, 4)


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    ({"pictures": [None], "task": "edit"}, "edit must have a picture, got 0"),
    ({"task": "generate"}, "generate must have no picture, got 1"),
    ({"task": "sing"}, "parallel_a must be asked for one of .*, got sing"),
    ({"prompts": ["<user>x"]}, "must have no special tokens"),
    ({"prompts": [" "]}, "at least one word"),
    ({"mask": np.zeros((1, 1), bool)}, r"a mask must be bool\[2, 4\]"),
    (
      {"mask": np.zeros((4, 4), bool), "size": (64, 64)},
      "a mask needs an input picture of the output's size",
    ),
    (
      {
        "prompts": ["x", "y"],
        "pictures": [photograph(), skimage.data.astronaut()],
      },
      "pictures of one batch must come to one size",
    ),
    ({"prompts": []}, "as many pictures as prompts and at least one"),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_requests_say_what_must_hold(load, asked, message):
  fields = {"prompts": ["x"], "pictures": [photograph()], **asked}
  with pytest.raises(ValueError, match=message):
    load("parallel_a").request(
      fields.pop("prompts"), fields.pop("pictures"), **fields
    )


def test_a_model_of_one_layout_refuses_what_it_cannot_do():
  pipe = pipeline_lib.ParallelPipeline.from_pretrained("micro")
  with pytest.raises(ValueError, match="micro edits or generates in one size"):
    pipe.edit("add a red star", photograph(), size=(64, 64))


def test_defaults_use_the_settings_of_the_task(load):
  pipe = load("parallel_a")
  request = _request(pipe, ["x"], [None], task="generate_picture")
  assert request.config == pipe.variant.task("generate_picture").sampler
  assert request.config.quirks == settings.Quirks()


@pytest.mark.parametrize(
  ("family", "task", "size"),
  [
    ("parallel_a", "edit", (64, 32)),
    ("parallel_a", "describe", (160, 96)),  # four times the area
    ("parallel_m", "edit", (64, 64)),
    ("mmada", "describe", (64, 64)),
  ],
)
def test_pictures_are_read_in_the_size_of_the_task(load, family, task, size):
  request = _request(load(family), ["x"], [photograph()], task=task)
  assert request.sources[0][0].shape == (size[1], size[0], 3)


def test_m_squashes_edits_and_crops_what_it_describes(load):
  pipe = load("parallel_m")
  wide = photograph()[100:300]  # 1:3
  edit = _request(pipe, ["x"], [wide]).sources[0][0]
  squashed = PIL.Image.fromarray(wide).resize(
    (64, 64), PIL.Image.Resampling.BICUBIC
  )
  np.testing.assert_array_equal(edit, squashed)
  asked = _request(pipe, ["x"], [wide], task="describe").sources[0][0]
  assert np.abs(asked.astype(int) - edit).mean() > 5


def test_a_drawn_mask_is_squashed_like_the_picture_of_m(load):
  drawn = PIL.Image.new("L", (600, 200), 0)
  drawn.paste(255, (0, 0, 150, 200))  # a quarter
  pipe = load("parallel_m")
  request = _request(pipe, ["x"], [photograph()[:200]], mask=drawn)
  hidden = np.asarray(request.answer)[0, request.layout.image_index]
  hidden = (hidden == pipe.variant.vocab.mask_id).reshape(4, 4)
  np.testing.assert_array_equal(hidden, [[True, False, False, False]] * 4)


def test_each_row_is_painted_over_its_own_picture(load):
  pipe = load("parallel_a")
  pair = [photograph(), photograph()[::-1]]
  mask = np.zeros((2, 4), bool)
  request = _request(pipe, ["x", "y"], pair, mask=mask)
  layout = request.layout
  source = np.asarray(request.condition.prefix)[:, layout.source_index]
  answer = np.asarray(request.answer)[:, layout.image_index]
  np.testing.assert_array_equal(answer, source)
  assert (answer[0] != answer[1]).any()


def test_m_generates_from_a_black_picture(load):
  pipe = load("parallel_m")
  request = _request(pipe, ["x"], [None], task="generate")
  source = np.asarray(request.condition.prefix)[0, request.layout.source_index]
  black = pipe.encode_pictures(np.zeros((1, 64, 64, 3), np.uint8))[0]
  np.testing.assert_array_equal(source, black + pipe.variant.vocab.code_offset)
  with pytest.raises(ValueError, match="generate must have no picture, got 1"):
    _request(pipe, ["x"], [photograph()], task="generate")


@pytest.mark.parametrize("family", ["parallel_a", "lumina_dimoo"])
def test_a_dropped_prompt_is_the_published_null_prompt(load, family):
  pipe = load(family)
  for task in pipe.variant.tasks:
    picture = photograph() if task.has_source else None
    layout = _request(pipe, ["x"], [picture], task=task).layout
    words = pipe.text_tokenizer.fast.decode(layout.null_prompt)
    system = task.prompt.split("{prompt}")[0]
    assert words == f"{system}<uncondition>"
    assert system.startswith("<system>") and system.endswith("<user>")


def test_a_stream_of_published_settings_ends_in_the_answer(load):
  pipe = load("parallel_a")
  config = dataclasses.replace(
    pipe.variant.reference_sampler, num_steps=4, num_image_steps=3
  )
  whole = pipe.edit("x", photograph(), config=config, text_len=4, seed=3)
  *_, last = pipe.stream(
    "x", photograph(), config=config, text_len=4, seed=3, stride=4
  )
  np.testing.assert_array_equal(last.picture, whole.picture)
  assert not last.masked.any()


@pytest.mark.parametrize(
  ("family", "ask", "message"),
  [
    ("mmada", lambda p: p.edit("x", photograph()), "got edit or edit_picture"),
    ("llada", lambda p: p.generate("x"), "got generate or generate_picture"),
    ("parallel_a", lambda p: p.edit("x", photograph(), text_len=0), "int >= 1"),
    (
      "lumina_dimoo",
      lambda p: p.edit("x", photograph(), text_len=9),
      "text_len must be None for edit_picture",
    ),
  ],
)
def test_what_a_model_cannot_do_is_refused_not_replaced(
  load, family, ask, message
):
  with pytest.raises(ValueError, match=message):
    ask(load(family))


@pytest.mark.parametrize(
  ("ask", "message"),
  [
    (lambda p: p.edit("x", photograph(), size=64), "size must be .height, wid"),
    (lambda p: p("red", [photograph()]), "prompts must be a list, got str"),
    (lambda p: p(["red"], photograph()), "pictures must be a list, got ndarr"),
    (lambda p: p.edit(None, photograph()), "text must be a string, got None"),
  ],
)
def test_bad_types_say_what_must_hold(load, ask, message):
  with pytest.raises(TypeError, match=message):
    ask(load("parallel_a"))


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    ({}, "must be loaded with variant="),
    ({"tokenizer": "x"}, "tokenizer must be None but for a published"),
    ({"variant": "parallel_a", "picture_size": 48}, "a multiple of 32, got 48"),
  ],
)
def test_a_first_call_that_lacks_something_says_what(tmp_path, asked, message):
  sizes = published_format.sizes("parallel_a")
  synthetic.build(tmp_path, "parallel_a", sizes=sizes)
  with pytest.raises(ValueError, match=message):
    pipeline_lib.ParallelPipeline.from_pretrained(str(tmp_path), **asked)


def test_given_reasoning_stands_between_its_task_and_the_picture(load):
  pipe = load("mmada")
  request = _request(pipe, ["A star."], [None], task="picture_of_reasoning")
  prefix = np.asarray(request.condition.prefix)[0]
  words = pipe.text_tokenizer.encode("A star.")
  valid = np.asarray(request.condition.valid)[0]
  assert prefix[valid].tolist() == [pipe.variant.vocab.reason_id, *words]
  assert request.layout.answer == ("image",)
