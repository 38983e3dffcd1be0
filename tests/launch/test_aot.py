"""Laws of compiling for TPUs without one: a small case by the real compiler."""
# mypy: disallow-untyped-defs=False

import importlib.metadata

import jax
import mini_rl
import mini_sft
import pytest
import toy
from packaging import requirements

from launch import aot
from launch import chips
from launch import jaxprs
from launch import programs
from launch import shapes as shapes_lib
from paradiff import sharding
from paradiff import variants
from paradiff.models import counts
from paradiff.models import transformer


def _reason():
  """Return why the TPU compiler cannot be asked here; "" if it can."""
  try:
    found = importlib.metadata.version("libtpu")
  except importlib.metadata.PackageNotFoundError:
    return "libtpu must be installed: pip install 'paradiff[tpu]'"
  for line in importlib.metadata.requires("jax") or ():
    wanted = requirements.Requirement(line)
    if wanted.name == "libtpu" and not wanted.specifier.contains(found):
      return f"jax {jax.__version__} must have its own {wanted}, got {found}"
  if jax.__version_info__ < chips.MIN_JAX:
    return f"jax must be {chips.MIN_JAX} or newer, got {jax.__version__}"
  return ""


needs_libtpu = pytest.mark.skipif(bool(_reason()), reason=_reason())


@pytest.fixture(autouse=True)
def products_of_tpus():
  """Undo the suite's highest precision, which the kernel cannot give."""
  with jax.default_matmul_precision("default"):
    yield


def _config(**transformer_fields):
  config = mini_sft.get_config()
  with config.unlocked():
    config.image_tokenizer = "not read"
    config.model = dict(
      transformer=dict(
        width=256,
        num_layers=2,
        num_heads=2,
        mlp_width=256,
        compute_dtype="bfloat16",
        **transformer_fields,
      )
    )
  return config


def _run(config, experiment="sft", **options):
  defaults = dict(variant="micro", topology="v5e:2x2", meshes=["1x4x1"])
  return aot.run(config, experiment=experiment, **{**defaults, **options})


@needs_libtpu
def test_a_step_is_compiled_for_a_slice_and_says_what_it_needs(capsys):
  [report] = _run(_config(attention="fused"), only=["train"])
  assert report.error is None
  config = variants.MICRO.transformer
  # Parameters and moments, float32, shared out over four chips: Muon keeps one
  # moment of a matrix, AdamW two of a table. Batch, key and gains are small.
  # A table's rows are padded to the chip's 128 lanes.
  matrices = 2 * (4 * 256**2 + 3 * 256**2)
  lanes = [-(-n // 128) * 128 for n in (config.vocab_size, config.num_places)]
  padded = (2 * lanes[0] + lanes[1]) * 256
  assert report.argument_bytes == pytest.approx(
    4 * (2 * matrices + 3 * padded) / 4, rel=0.02
  )
  num = matrices + (2 * config.vocab_size + config.num_places) * 256
  assert report.hbm_bytes == 15.75 * chips.GIB
  # Weights are gathered for both passes and gradients summed up.
  sent = sum(t.num_bytes for t in report.traffic.values())
  assert 2 * 2 * num * 3 / 4 < sent < 20 * num
  assert 0 < report.mfu <= 1
  assert "| train | 1x4x1 | 8 |" in capsys.readouterr().out


@needs_libtpu
def test_what_does_not_fit_is_said(capsys):
  config = _config()
  config.batch_size = 400_000
  [report] = _run(config, only=["train"])
  assert "15.75G" in report.error
  assert "does not fit" in capsys.readouterr().out


@needs_libtpu
def test_the_step_that_scores_and_learns_is_compiled():
  config = mini_rl.get_config()
  with config.unlocked():
    config.lora = dict(rank=2)
  [report] = _run(config, experiment="rl")
  assert report.error is None
  assert report.program == "learn"
  assert report.traffic


def test_the_sampler_counts_each_pass_of_its_guidance():
  mesh = sharding.make_mesh(fsdp=1)
  variant = programs.VARIANTS["parallel_a"]
  shapes = shapes_lib.Shapes(
    variant, shapes_lib.layout_of(variant, prompt_len=128), mesh
  )
  found = programs.sample(shapes, num_rows=3)
  # 128 steps, on 64 of which the picture is guided by two passes more.
  assert found.num_passes == 128 + 2 * 64
  one = counts.forward_flops(variant.transformer, shapes.seq_len, 0)
  assert 1.0 < found.model_flops / (3 * 256 * one) < 1.02  # and the heads


def test_operations_are_those_of_the_program():
  config, length = toy.CONFIG, 6
  params = toy.params()

  def forward(tokens):
    valid = jax.numpy.ones_like(tokens, bool)
    hidden = transformer.trunk(config, params, tokens, valid_mask=valid)
    return transformer.head(config, params, hidden, columns=(0, 44))

  tokens = jax.numpy.zeros((1, length), jax.numpy.int32)
  total = 0
  for eqn, times, _ in toy.equations(jax.make_jaxpr(forward)(tokens).jaxpr):
    if eqn.primitive.name == "dot_general":
      (left, _), _ = eqn.params["dimension_numbers"]
      shape = eqn.invars[0].aval.shape
      inner = 1
      for axis in left:
        inner *= shape[axis]
      total += 2 * times * eqn.outvars[0].aval.size * inner
  assert total == counts.forward_flops(config, length, length * 44)
  assert total == jaxprs.flops(jax.make_jaxpr(forward)(tokens))
  leaves = [x.size for x in jax.tree.leaves(params) if x.ndim > 2]
  tables = 2 * config.vocab_size * config.width
  assert counts.num_weights(config) == sum(leaves) + tables


def test_what_is_made_again_is_counted():
  mesh = sharding.make_mesh(fsdp=1)

  def ratio(remat):
    config = _config(remat=remat, attention="fused")
    config.optim.muon_ratio = 0.0  # whose products are no model's
    [train, _] = programs.of_config("sft", config, variant="micro", mesh=mesh)
    return train.count_flops() / train.model_flops

  # All but the product with the ids, which has no gradient to pass on.
  assert 0.97 < ratio("none") <= 1.0
  # A third more where every block is made again; the head is in any case.
  assert 1.25 < ratio("full") < 4 / 3
  assert ratio("none") < ratio("products") < ratio("attention") < ratio("full")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(topology="v9:2x2"), "topology must be one of"),
    (dict(variant="giant"), "variant must be one of"),
    (dict(meshes=["4"]), "a mesh must be data x fsdp x tensor"),
    (dict(meshes=["1x2x1"]), "must have all 4 chips"),
    (dict(only=["dance"]), "programs must be of"),
    (dict(experiment="play"), "experiment must be one of"),
  ],
)
@needs_libtpu
def test_bad_input_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    _run(_config(), **options)


@needs_libtpu
def test_a_mesh_that_does_not_divide_the_model_is_refused():
  # 393 rows of the vocabulary on two chips.
  with pytest.raises(ValueError, match="must divide each axis.*embed.*393"):
    _run(_config(), meshes=["2x1x2"])
