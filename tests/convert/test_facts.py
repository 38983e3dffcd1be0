"""Laws of the facts: whence they come, and which files are refused."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

from paradiff import sharding
from paradiff.convert import facts as facts_lib
from paradiff.convert import families
from paradiff.convert import model as model_lib
from paradiff.convert import synthetic
from paradiff.convert import tensors
from paradiff.models import image_tokenizer

A_NAMES = (
  "<system>",
  "</system>",
  "<user>",
  "</user>",
  "<uncondition>",
  "<answer>",
  "</answer>",
)


def _edit(path, changes):
  """Change keys of a JSON file; None takes a key away."""
  data = json.loads(path.read_text())
  for key, value in changes.items():
    data[key] = value
    if value is None:
      del data[key]
  path.write_text(json.dumps(data))


def _pictures(folder, family):
  """Return the options that say where the image tokenizer is."""
  kind = families.find(family).image_tokenizer
  inside = folder / "image_tokenizer"
  return {"image_tokenizer": inside} if kind == "magvitv2" else {}


def _read(folder, family, **options):
  model = model_lib.read(folder, family, **_pictures(folder, family), **options)
  return model.facts


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
  """A checkpoint of each family; not to be changed."""
  root = tmp_path_factory.mktemp("sources")
  for family in families.FAMILIES:
    synthetic.build(root / family, family)
  return root


@pytest.fixture
def source(tmp_path):
  """A checkpoint of A that a test may spoil."""
  synthetic.build(tmp_path / "a", "parallel_a")
  return tmp_path / "a"


def _untouched(monkeypatch):
  """Fail a test if a tensor is read."""

  def view(self):
    raise AssertionError(f"{self.name} was read")

  monkeypatch.setattr(tensors.LazyTensor, "view", view)


@pytest.mark.parametrize("family", list(families.FAMILIES))
def test_sizes_are_those_of_the_files(sources, family):
  facts = _read(sources / family, family)
  config = facts.transformer
  assert (config.width, config.num_layers, config.num_heads) == (32, 2, 4)
  assert (config.mlp_width, config.compute_dtype) == (64, "bfloat16")
  assert (config.norm_eps, config.rope_theta) == (1e-5, 500_000.0)
  assert facts.codebook_size == (0 if family == "llada" else 64)
  # Three spare rows, as the headers say and no config.
  assert config.vocab_size == facts.text_size + facts.codebook_size + 3
  assert facts_lib.from_dict(facts_lib.to_dict(facts)) == facts
  text = json.dumps(facts_lib.to_dict(facts))
  assert facts_lib.from_dict(json.loads(text)) == facts


def test_image_tokenizers_are_those_of_the_files(sources):
  amused = _read(sources / "parallel_a", "parallel_a").image_tokenizer
  assert amused == dataclasses.replace(
    image_tokenizer.AMUSED,
    base_channels=32,
    encoder_multipliers=(1, 2),
    encoder_blocks=(1, 1),
    decoder_multipliers=(1, 2),
    decoder_blocks=(2, 2),
    num_codes=64,
    latent_channels=8,
  )
  lookup_free = _read(sources / "parallel_m", "parallel_m").image_tokenizer
  assert lookup_free == dataclasses.replace(
    image_tokenizer.MAGVITV2,
    picture_size=512,
    base_channels=32,
    code_bits=6,
    encoder_multipliers=(1, 2),
    encoder_blocks=(2, 1),
    decoder_multipliers=(1, 2),
    decoder_blocks=(1, 2),
  )


@pytest.mark.parametrize(
  ("family", "text_size", "expected"),
  [
    (
      "parallel_a",
      126356,
      {
        "<|startoftext|>": 126080,
        "<|endoftext|>": 126081,
        "<|mdm_mask|>": 126336,
        "newline": 126084,
        "pad": 126339,
        "boi": 126349,
        "eoi": 126350,
        "<uncondition>": 126351,
        "<answer>": 126354,
        "</answer>": 126355,
      },
    ),
    (
      "parallel_m",
      126349,
      {
        "<|startoftext|>": 126080,
        "<|endoftext|>": 126081,
        "<|mdm_mask|>": 126336,
        "<|soi|>": 126084,
        "<|eoi|>": 126085,
        "<|sov|>": 126086,
        "<|eov|>": 126087,
        "<|t2i|>": 126088,
        "<|mmu|>": 126089,
        "<|t2v|>": 126090,
        "<|v2v|>": 126091,
        "<|lvg|>": 126092,
        "[iPAD]": 126093,
        "<|r2i|>": 126094,
        "<|interleave|>": 126095,
        "<|t2it|>": 126096,
        "<|eot_id|>": 126348,
      },
    ),
  ],
)
def test_ids_are_the_published_ones_at_the_published_size(
  tmp_path, family, text_size, expected
):
  sizes = synthetic.Sizes(
    num_words=126080, width=4, num_heads=1, num_layers=1, mlp_width=4
  )
  synthetic.build(tmp_path, family, sizes=sizes)
  facts = _read(tmp_path, family)
  assert facts.text_size == text_size
  found = {name: facts.special_ids[name] for name in expected}
  assert found == expected
  others = set(A_NAMES[:4]) if family == "parallel_a" else set()
  assert set(facts.special_ids) - set(expected) == others


@pytest.mark.parametrize(
  ("key", "value", "wanted"),
  [
    ("model_type", "qwen2", "'llada'"),
    ("model_type", "mmada", "'llada'"),
    ("block_type", "sequential", "'llama'"),
    ("block_type", None, "'llama'"),
    ("activation_type", "swiglu", "'silu'"),
    ("layer_norm_type", "default", "'rms'"),
    ("rope", False, "True"),
    ("rope", 1, "True"),
    ("include_bias", True, "False"),
    ("weight_tying", True, "False"),
    ("n_kv_heads", 2, "4 or None"),
    ("alibi", True, "False"),
    ("attention_layer_norm", True, "False"),
    ("bias_for_layer_norm", True, "False or None"),
    ("block_group_size", 2, "1"),
    ("clip_qkv", 8.0, "None"),
    ("include_qkv_bias", True, "False or None"),
    ("input_emb_norm", True, "False"),
    ("layer_norm_with_affine", False, "True"),
    ("multi_query_attention", True, "False or None"),
    ("rope_full_precision", False, "True"),
    ("scale_logits", True, "False"),
  ],
)
def test_a_config_of_another_model_is_refused(
  source, monkeypatch, key, value, wanted
):
  _untouched(monkeypatch)
  _edit(source / "config.json", {key: value})
  found = "no such key" if value is None else value
  with pytest.raises(ValueError) as caught:
    _read(source, "parallel_a")
  message = f"config.json must have {key} {wanted}, got {found!r}"
  assert message in str(caught.value)


@pytest.mark.parametrize("key", list(facts_lib.OPTIONAL))
def test_a_word_that_a_config_may_lack_may_be_missing(source, key):
  config = json.loads((source / "config.json").read_text())
  config.pop(key)
  (source / "config.json").write_text(json.dumps(config))
  assert _read(source, "parallel_a").text_size == 576


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"d_model": None}, "must have d_model, an integer >= 1, got None"),
    ({"n_layers": "2"}, "must have n_layers, an integer >= 1, got '2'"),
    ({"rope_theta": None}, "must have rope_theta, a number > 0, got None"),
    ({"rms_norm_eps": 0}, "must have rms_norm_eps, a number > 0, got 0"),
    ({"codebook_size": 32}, "must have .*codebook_size, 64, got 32"),
    ({"mask_token_id": 3}, "the same mask_token_id, got 556 and 3"),
    ({"text_vocab_size": 500}, "among its 500 ids, got"),
    ({"text_vocab_size": 600}, "must have at least 664 rows"),
  ],
)
def test_a_config_with_other_numbers_is_refused(
  source, monkeypatch, changes, message
):
  _untouched(monkeypatch)
  if changes.get("text_vocab_size") == 600:
    message = "must end with </answer>.* got it at 575 of 600 ids"
  _edit(source / "config.json", changes)
  with pytest.raises(ValueError, match=message):
    _read(source, "parallel_a")


def test_sizes_that_the_weights_do_not_have_are_listed(source, monkeypatch):
  _untouched(monkeypatch)
  _edit(source / "config.json", {"n_layers": 3, "mlp_hidden_size": 32})
  with pytest.raises(ValueError) as caught:
    _read(source, "parallel_a")
  message = str(caught.value)
  assert "blocks/q_proj[2]: wants model.transformer.blocks.2.q_proj" in message
  assert "ff_proj.weight in model-00001-of-0000" in message
  assert "must be [32, 32], got [64, 32]" in message


def _rewrite(source, change):
  """Rewrite the backbone in one file with its tensors changed."""
  index = source / "model.safetensors.index.json"
  arrays = {
    name: np.array(tensor.view())
    for name, tensor in tensors.Checkpoint.open(source).items()
  }
  for path in [index, *source.glob("model-*.safetensors")]:
    path.unlink()
  change(arrays)
  safetensors.numpy.save_file(arrays, source / "model.safetensors")


@pytest.mark.parametrize("name", [facts_lib.EMBED, facts_lib.HEAD])
def test_fewer_rows_than_ids_are_refused(source, monkeypatch, name):
  def cut(arrays):
    arrays[name] = arrays[name][:639]  # 576 text ids and 64 codes

  _rewrite(source, cut)
  _untouched(monkeypatch)
  message = rf"model\.safetensors: {name} must have at least 640 rows.*639, 32"
  with pytest.raises(ValueError, match=message):
    _read(source, "parallel_a")


def test_embedding_and_head_have_the_same_rows(source, monkeypatch):
  def cut(arrays):
    arrays[facts_lib.HEAD] = arrays[facts_lib.HEAD][:641]

  _rewrite(source, cut)
  _untouched(monkeypatch)
  with pytest.raises(ValueError, match="must have the shape of .* .643, 32."):
    _read(source, "parallel_a")


def test_a_model_without_a_head_is_refused(source, monkeypatch):
  _rewrite(source, lambda arrays: arrays.pop(facts_lib.HEAD))
  _untouched(monkeypatch)
  with pytest.raises(ValueError, match=f"must hold {facts_lib.HEAD}"):
    _read(source, "parallel_a")


def test_tensors_of_integers_are_refused(source, monkeypatch):
  name = "model.transformer.blocks.1.up_proj.weight"

  def change(arrays):
    arrays[name] = arrays[name].astype(np.int32)

  _rewrite(source, change)
  _untouched(monkeypatch)
  with pytest.raises(ValueError, match=rf"{name} in model\.safe.*got I32"):
    _read(source, "parallel_a")


@pytest.mark.parametrize("name", [families.BOS, *A_NAMES])
def test_a_tokenizer_without_a_special_token_is_refused(
  source, monkeypatch, name
):
  _untouched(monkeypatch)
  path = source / "tokenizer.json"
  path.write_text(path.read_text().replace(f'"{name}"', '"<|other|>"'))
  for other in ("tokenizer_config.json", "special_tokens_map.json"):
    (source / other).write_text("{}")
  with pytest.raises(ValueError) as caught:
    _read(source, "parallel_a")
  assert str(path) in str(caught.value)
  assert f"got {name} as " in str(caught.value)


def test_the_tokenizer_of_another_family_is_refused(sources, monkeypatch):
  _untouched(monkeypatch)
  words = sources / "llada"
  with pytest.raises(ValueError, match="each special token of parallel_a"):
    _read(sources / "parallel_a", "parallel_a", tokenizer=words)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_missing_or_damaged_file_is_named(source, name, text):
  path = source / name
  path.unlink()
  if text is not None:
    path.write_text(text)
  error = FileNotFoundError if text is None else ValueError
  with pytest.raises(error, match=name):
    _read(source, "parallel_a")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"_class_name": "AutoencoderKL"}, "_class_name 'VQModel'"),
    ({"mid_block_add_attention": True}, "mid_block_add_attention False"),
    ({"lookup_from_codebook": False}, "lookup_from_codebook True"),
    ({"norm_type": "spatial"}, "norm_type 'group'"),
    ({"act_fn": "relu"}, "act_fn 'silu'"),
    ({"in_channels": 4}, "in_channels 3"),
    ({"vq_embed_dim": 4}, "vq_embed_dim None or 8"),
    ({"down_block_types": ["DownBlock2D"] * 2}, "down_block_types"),
    ({"block_out_channels": [32, 40]}, "block_out_channels, multiples"),
    ({"num_vq_embeddings": 0}, "num_vq_embeddings, an integer >= 1"),
    ({"norm_num_groups": None}, "norm_num_groups, an integer >= 1"),
  ],
)
def test_an_image_tokenizer_of_another_model_is_refused(
  source, monkeypatch, changes, message
):
  _untouched(monkeypatch)
  _edit(source / "vqvae" / "config.json", changes)
  with pytest.raises(ValueError, match=rf"vqvae/config\.json must .*{message}"):
    _read(source, "parallel_a")


def test_a_missing_image_tokenizer_is_named(sources):
  with pytest.raises(FileNotFoundError, match=r"--image_tokenizer"):
    model_lib.read(sources / "parallel_m", "parallel_m")
  with pytest.raises(ValueError, match="must hold MAGVITv2, with encoder"):
    model_lib.read(
      sources / "parallel_m",
      "parallel_m",
      image_tokenizer=sources / "parallel_m",
    )


def test_an_unknown_family_is_refused(sources):
  with pytest.raises(ValueError, match="family must be in .*got 'b'"):
    model_lib.read(sources / "parallel_a", "b")


def test_a_mesh_that_does_not_divide_a_parameter_is_refused(sources):
  facts = _read(sources / "parallel_a", "parallel_a")
  mesh = sharding.make_mesh(tensor=2)
  with pytest.raises(ValueError, match=r"must divide every .*\(643, 32\)"):
    model_lib.param_shapes(facts, mesh)


@pytest.mark.parametrize(
  ("file", "key", "value", "message"),
  [
    ("config.json", "n_layers", 10**30, "n_layers of at most the"),
    ("config.json", "rope_theta", float("inf"), "rope_theta, a number > 0"),
    ("config.json", "rms_norm_eps", float("nan"), "rms_norm_eps, a number"),
    ("vqvae/config.json", "layers_per_block", 10**7, "of at most the"),
  ],
)
def test_absurd_numbers_are_refused_before_names_are_made_of_them(
  tmp_path, file, key, value, message
):
  synthetic.build(tmp_path, "parallel_a")
  path = tmp_path / file
  path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
  with pytest.raises(ValueError, match=message):
    model_lib.read(tmp_path, "parallel_a")
