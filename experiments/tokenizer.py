"""Train an image tokenizer on pictures of random scenes, or on your own.

  python -m experiments.tokenizer \
    --config=experiments/configs/tokenizer_micro.py --workdir=DIR
  python -m experiments.tokenizer \
    --config=experiments/configs/tokenizer_emoji.py --workdir=DIR \
    --config.data.folder=PICTURES

The losses are those of MAGVIT-v2 (arXiv 2310.05737, section 3.1) without the
adversarial one: reconstruction, entropy and commitment, through
straight-through quantisation. One is added. The transformer has to predict
the codes, so a code should mean one thing whatever its neighbours are:
*locality* asks the codes of a picture to be those of its crops.

Three stages: crops of one code each, which is cheap and settles the codebook;
whole pictures, beside their crops or with codes of their own
(`loss.whole_codes`); the decoder alone, with the codes fixed.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from etils import epath

from experiments import common
from experiments import processes
from experiments import tokenizer_evaluation
from experiments import tokenizer_loss
from experiments import tokenizer_sources
from paradiff import checkpoints
from paradiff import metrics
from paradiff import optim
from paradiff import pretrained
from paradiff import step
from paradiff import train_state
from paradiff.models import image_tokenizer


def make_batch(
  data: tokenizer_sources.Data, loss: tokenizer_loss.LossConfig, done: int
) -> dict[str, np.ndarray]:
  """Return pictures and coefficients of the step after `done` steps.

  They follow from the data and the step alone, so a run can resume anywhere.
  """
  rest = max(0.0, 1.0 - done / loss.batch_entropy_steps)
  coef = np.asarray(loss.batch_entropy_coef * rest, np.float32)
  return {"pictures": data.batch(done), "batch_entropy_coef": coef}


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of the run: it ends after step `end`, counted from the start."""

  end: int
  tx: optax.GradientTransformation
  train_step: step.TrainStep


def make_stages(
  config: ml_collections.ConfigDict,
  tokenizer: image_tokenizer.ImageTokenizerConfig,
  loss: tokenizer_loss.LossConfig,
) -> tuple[Stage, ...]:
  """Return the three stages; the last has an optimiser of its own."""
  kind = (tokenizer.quantiser, tokenizer.pixel_range)
  if kind != ("lookup_free", "signed"):  # entropies and canvas assume it
    raise ValueError(f"tokenizer must be lookup_free and signed, got {kind}")
  codes_config = common.build(optim.OptimConfig, config.optim)
  finish_config = common.build(optim.OptimConfig, config.finish_optim)
  num_codes_steps = codes_config.num_steps
  if not 0 < config.crop_steps < num_codes_steps:
    raise ValueError(
      "crop_steps must lie in (0, optim.num_steps), got "
      f"{config.crop_steps=} {num_codes_steps=}"
    )
  codes_tx = optim.make_tx(codes_config)
  finish_tx = optim.make_tx(finish_config)
  codes_rate = optim.make_schedule(codes_config)
  finish_rate = optim.make_schedule(finish_config)

  def make_step(loss_fn: Any, tx: Any, schedule: Any) -> step.TrainStep:
    bound = functools.partial(loss_fn, tokenizer, loss)
    return step.make_train_step(bound, tx, schedule=schedule)

  update = make_step(
    tokenizer_loss.finish_loss,
    finish_tx,
    lambda done: finish_rate(done - num_codes_steps),
  )

  def finish_step(
    state: train_state.TrainState, batch: step.Batch
  ) -> tuple[train_state.TrainState, step.Metrics]:
    new_state, values = update(state, batch)
    # Weight decay moves parameters without a gradient too: put them back.
    params = new_state.params | {"encoder": state.params["encoder"]}
    return dataclasses.replace(new_state, params=params), values

  first_step = make_step(tokenizer_loss.first_loss, codes_tx, codes_rate)
  whole_losses = {
    "crops": tokenizer_loss.whole_loss,
    "pictures": tokenizer_loss.picture_loss,
  }
  whole_step = make_step(whole_losses[loss.whole_codes], codes_tx, codes_rate)
  return (
    Stage(config.crop_steps, codes_tx, jax.jit(first_step, donate_argnums=0)),
    Stage(num_codes_steps, codes_tx, jax.jit(whole_step, donate_argnums=0)),
    Stage(
      num_codes_steps + finish_config.num_steps,
      finish_tx,
      jax.jit(finish_step, donate_argnums=0),
    ),
  )


def train(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Run the experiment, resuming from what the workdir holds.

  Args:
    config: see `experiments/configs/tokenizer_micro.py`, and
      `tokenizer_emoji.py` for pictures of one's own.
    workdir: checkpoints, metrics, samples, and `export/`: the result.

  Returns:
    The scores of the final parameters.

  Raises:
    ValueError: if the config is wrong or the workdir is of another run.
    common.NonFinite: if the loss or a gradient is not finite.
    processes.Preempted: if the run was told to stop; it is saved.
  """
  processes.check_alone("the image tokenizer")
  tokenizer = common.build(
    image_tokenizer.ImageTokenizerConfig, config.tokenizer
  )
  loss = common.build(tokenizer_loss.LossConfig, config.loss)
  stages = make_stages(config, tokenizer, loss)
  num_steps = stages[-1].end
  data, evaluation = tokenizer_sources.make(
    config, tokenizer, report=sys.stderr.write
  )
  params_key, train_key = jax.random.split(jax.random.key(config.seed))
  init = jax.jit(image_tokenizer.init, static_argnums=0)
  state = train_state.create(
    init(tokenizer, params_key), stages[0].tx, train_key
  )

  checkpointer = checkpoints.Checkpointer(
    workdir,
    identity=common.identity(config, experiment="tokenizer", **data.identity),
    report=sys.stderr.write,
  )
  restored = checkpointer.restore(state)
  start = 0 if restored is None else restored[1]
  state = state if restored is None else restored[0]
  common.write_config(config, workdir)
  writer = metrics.Writer(workdir, resume_step=start or None)
  window, guard = metrics.Window(), common.Guard()
  progress = metrics.Progress(num_steps, stream=sys.stderr, start_step=start)
  scores: dict[str, float] = {}
  with common.closing(progress, checkpointer, writer):
    for done in range(start + 1, num_steps + 1):
      stage = next(stage for stage in stages if done <= stage.end)
      if done == stages[1].end + 1:
        opt_state = stage.tx.init(state.params)
        state = dataclasses.replace(state, opt_state=opt_state)
      batch = jax.device_put(make_batch(data, loss, done - 1))
      state, values = stage.train_step(state, batch)
      guard.push(done, values)
      window.add(values)
      progress.update(done, loss=guard.loss)
      is_end = done == stage.end  # each stage has metrics of its own
      if done % config.log.every == 0 or is_end:
        writer.write_scalars(done, window.take())
      if done % config.evaluate.every == 0 or is_end:
        guard.drain()
        scores, grid = evaluation.run(state.params)
        writer.write_scalars(done, scores)
        writer.write_images(done, {"samples": grid})
        tokenizer_evaluation.write_png(
          epath.Path(workdir) / "samples" / f"{done:06d}.png", grid
        )
      checkpointer.check()
      is_preempted = checkpointer.is_preempted(done)
      if is_preempted or done % config.checkpoint.every == 0 or is_end:
        guard.drain()
        writer.flush()
        checkpointer.save(state, step=done, position=done)
      if is_preempted:
        raise processes.Preempted(f"told to stop, saved step {done}")
  if not scores:  # nothing was left to do
    scores, _ = evaluation.run(state.params)
  pretrained.save(
    epath.Path(workdir) / "export",
    "image_tokenizer",
    state.params,
    dataclasses.asdict(tokenizer),
  )
  for name, value in scores.items():
    sys.stderr.write(f"{name} {value:.5g}\n")
  return scores


if __name__ == "__main__":
  common.run(train)
