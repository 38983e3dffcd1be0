"""Train a tiny CLIP on the scenes world, for the reward of ParaRL.

  python -m experiments.clip \
    --config=experiments/configs/clip_scenes.py --workdir=DIR

Symmetric InfoNCE over a batch of pairs with a learned scale of at most 100
(arXiv 2103.00020, section 2.3). A batch is made of families whose pictures,
and texts, differ in one fact: see `paradiff/data/captions.py`.

The workdir is re-startable and ends with the same bits as a run that was never
interrupted. At its end `model/` holds config.json and model.safetensors in the
format of Hugging Face and the tokenizer: `convert.clip.load_reward` reads it
as it reads a published CLIP.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import ml_collections
import optax
from etils import epath

from experiments import clip_evaluation
from experiments import common
from experiments import options
from experiments import processes
from paradiff import checkpoints
from paradiff import metrics
from paradiff import optim
from paradiff import sharding
from paradiff import step as step_lib
from paradiff import train_state
from paradiff.convert import clip as convert
from paradiff.data import captions
from paradiff.data import pipeline as data_lib
from paradiff.data import text as text_lib
from paradiff.models import clip as clip_lib
from paradiff.models import clip_config
from paradiff.scenes import grammar

MAX_LOGIT_SCALE = math.log(100.0)
# Own marks behind the words, as the published CLIPs have: the second is the
# highest id, and not the one that `clip_config.LEGACY_EOS_ID` claims.
START, END = "<|startofcaption|>", "<|endofcaption|>"
_POSITION_STD = 0.5


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The pairs to learn from.

  Attributes:
    size: examples drawn; each epoch shows all of them in another order.
    seed: of examples and variations.
    family_size: pairs that differ in one fact.
    hole_rate: in [0, 1], how often a text loses a random share of its words.
  """

  size: int
  seed: int = 0
  family_size: int = 4
  hole_rate: float = 0.0


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """Held-out pairs: `num_pairs` at once, every `every` steps."""

  every: int = 200
  num_pairs: int = 256


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run.

  Attributes:
    num_steps: updates.
    optim: the optimiser; `num_steps` is the run's.
    model: fields of ClipConfig; the run sets those of the texts.
    data: what to learn from.
    seed: of weights and order.
    batch_size: pairs of a batch, whole families.
    mesh: the devices.
    log: metrics.
    checkpoint: checkpoints.
    evaluate: scores while training.

  Raises:
    ValueError: if a batch would hold a part of a family.
  """

  num_steps: int
  optim: Mapping[str, Any]
  model: Mapping[str, Any]
  data: DataConfig
  seed: int = 0
  batch_size: int = 128
  mesh: options.MeshConfig = options.MeshConfig()
  log: options.LogConfig = options.LogConfig()
  checkpoint: options.CheckpointConfig = options.CheckpointConfig()
  evaluate: EvaluateConfig = EvaluateConfig()

  def __post_init__(self) -> None:
    if self.batch_size % self.data.family_size:
      raise ValueError(
        "batch_size must be a multiple of data.family_size, got "
        f"{self.batch_size=} {self.data.family_size=}"
      )


def init(config: clip_config.ClipConfig, key: jax.Array) -> Any:
  """Draw parameters as `clip.init` does, the places of patches larger.

  A scene's fact is a look at a place. By the published spread, 0.02, a place is
  a fiftieth of what the blank canvas alone adds to a patch, and cells are told
  apart late or never.
  """
  params = clip_lib.init(config, key)
  positions = _POSITION_STD / 0.02 * params["vision"]["positions"]
  return params | {"vision": params["vision"] | {"positions": positions}}


def matrix_axes(config: clip_config.ClipConfig) -> Any:
  """Return the tree of parameters with (input, output) axes for leaves.

  Only the matrices inside the blocks have them; other leaves are None. Their
  leading axis, the layers, is in neither.
  """
  inward, dense = ((1,), (2, 3)), ((1,), (2,))
  matrices = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), inward),
    "attn_out": ((1, 2), (3,)),
    **dict.fromkeys(("up", "down"), dense),
  }
  flat = checkpoints.flatten(clip_lib.logical_axes(config))
  return checkpoints.unflatten(
    {path: matrices.get(path.split("/")[-1]) for path in flat}
  )


def build_tokenizer() -> text_lib.TextTokenizer:
  """Return the words of the scenes world, and CLIP's two marks behind them."""
  fast = text_lib.build_word_tokenizer(grammar.WORDS)
  fast.add_special_tokens(
    {"bos_token": START, "eos_token": END, "pad_token": END}
  )
  return text_lib.TextTokenizer(fast)


def make_source(
  config: DataConfig, tokenizer: text_lib.TextTokenizer, *, max_len: int
) -> captions.FamilySource:
  """Return the training families."""
  return captions.FamilySource(
    data_lib.ScenesSource(seed=config.seed, size=config.size),
    encode=tokenizer.encode_marked,
    start_id=tokenizer.ids[START],
    end_id=tokenizer.ids[END],
    max_len=max_len,
    family_size=config.family_size,
    hole_rate=config.hole_rate,
    seed=config.seed,
  )


def contrastive_loss(
  config: clip_config.ClipConfig,
  params: Any,
  batch: step_lib.Batch,
  key: jax.Array,
) -> tuple[jax.Array, step_lib.Metrics]:
  """Ask each text for its picture, and each picture for its text.

  Args:
    config: the sizes.
    params: from `clip.init`.
    batch: families of `captions.FamilySource`, [B / K, K, ...] each.
    key: not used.

  Returns:
    The mean of both cross-entropies in nats, and metrics.

  Source: arXiv 2103.00020, figure 3.
  """
  del key
  flat = {k: x.reshape(-1, *x.shape[2:]) for k, x in batch.items()}
  text, image = clip_evaluation.embed(config, params, flat)
  logits = clip_lib.similarity(config, params, text, image)
  labels = jnp.arange(len(logits))
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  of_picture = cross_entropy(logits, labels).mean()
  of_text = cross_entropy(logits.T, labels).mean()
  return (of_picture + of_text) / 2, {
    "train/loss_text_to_picture": of_text,
    "train/loss_picture_to_text": of_picture,
    "train/picture_found_rate": jnp.mean(logits.argmax(0) == labels),
    "train/logit_scale": jnp.exp(params["logit_scale"]),
  }


def make_train_step(
  config: clip_config.ClipConfig, optim_config: optim.OptimConfig
) -> tuple[optax.GradientTransformation, step_lib.TrainStep]:
  """Return the optimiser and a step that keeps the scale at most 100."""
  tx = optim.make_tx(optim_config, matrix_axes=matrix_axes(config))
  update = step_lib.make_train_step(
    functools.partial(contrastive_loss, config),
    tx,
    schedule=optim.make_schedule(optim_config),
  )

  def train_step(
    state: train_state.TrainState, batch: step_lib.Batch
  ) -> tuple[train_state.TrainState, step_lib.Metrics]:
    state, values = update(state, batch)
    scale = jnp.minimum(state.params["logit_scale"], MAX_LOGIT_SCALE)
    params = state.params | {"logit_scale": scale}
    return dataclasses.replace(state, params=params), values

  return tx, train_step


def train(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  *,
  stream: TextIO = sys.stderr,
) -> dict[str, float]:
  """Train, resuming where the workdir stands.

  Args:
    config: see `experiments/configs/clip_scenes.py`.
    workdir: everything the run writes; `model/` is the result.
    stream: where progress and the final scores are shown.

  Returns:
    The scores of the final parameters.

  Raises:
    ValueError: if the config is wrong or the workdir is of another run.
    common.NonFinite: if the loss or a gradient is not finite.
    processes.Preempted: if the run was told to stop; it is saved.
  """
  experiment = common.build(Experiment, config)
  num_steps, root = experiment.num_steps, epath.Path(workdir)
  optim_config = common.build(
    optim.OptimConfig, experiment.optim, num_steps=num_steps
  )
  tokenizer = build_tokenizer()
  model = common.build(
    clip_config.ClipConfig,
    experiment.model,
    vocab_size=len(tokenizer),
    max_text_len=grammar.MAX_REASONING_LEN + 2,
    eos_id=tokenizer.ids[END],
  )
  mesh = sharding.make_mesh(**dataclasses.asdict(experiment.mesh))
  processes.check_mesh(mesh)
  tx, train_step = make_train_step(model, optim_config)
  state, places = train_state.init_state(
    functools.partial(init, model),
    tx,
    jax.random.key(experiment.seed),
    mesh=mesh,
    logical_axes=clip_lib.logical_axes(model),
  )
  saver = checkpoints.Checkpointer(
    root,
    identity=common.identity(config, experiment="clip"),
    num_kept=experiment.checkpoint.num_kept,
    report=stream.write,
  )
  restored = saver.restore(state)
  state, start = (state, 0) if restored is None else restored
  common.write_config(config, root)
  batches = data_lib.Batches(
    make_source(experiment.data, tokenizer, max_len=model.max_text_len),
    batch_size=experiment.batch_size // experiment.data.family_size,
    seed=experiment.seed,
    mesh=mesh,
    position=start,
  )
  run_step = jax.jit(
    train_step,
    in_shardings=(places, batches.sharding),
    out_shardings=(places, None),
    donate_argnums=0,
  )
  evaluation = clip_evaluation.Evaluation(
    model,
    tokenizer,
    num_pairs=experiment.evaluate.num_pairs,
    seed=experiment.data.seed,
  )
  writer = common.open_writer(root, resume_step=start or None)
  writer.write_hparams(common.flat(config))
  window, guard = metrics.Window(), common.Guard()
  progress = metrics.Progress(num_steps, stream=stream, start_step=start)
  scores: dict[str, float] = {}
  with common.closing(progress, batches, writer, saver):
    for done in range(start + 1, num_steps + 1):
      batch = next(batches)
      with jax.set_mesh(mesh):
        state, values = run_step(state, batch)
      guard.push(done, values)
      window.add(values)
      progress.update(done, loss=guard.loss)
      saver.check()
      is_preempted = saver.is_preempted(done)
      save = is_preempted or common.is_due(
        done, experiment.checkpoint.every, num_steps
      )
      # A window ends at each checkpoint too: it would not outlive a kill.
      if save or common.is_due(done, experiment.log.every, num_steps):
        guard.drain()
        writer.write_scalars(done, window.take())
      if common.is_due(done, experiment.evaluate.every, num_steps):
        guard.drain()
        scores = evaluation.run(processes.gathered(state.params))
        writer.write_scalars(done, scores)
      if save:
        writer.flush()
        saver.save(state, step=done, position=done)
      if is_preempted:
        raise processes.Preempted(f"told to stop, saved step {done}")
  if not scores:  # nothing was left to do
    scores = evaluation.run(processes.gathered(state.params))
  params = jax.device_get(processes.gathered(state.params))
  if processes.is_first():
    convert.write(root / "model", model, params)
    tokenizer.save(root / "model")
  processes.wait_for_all("model saved")
  for name, value in scores.items():
    stream.write(f"{name} {value:.5g}\n")
  return scores


if __name__ == "__main__":
  common.run(train)
