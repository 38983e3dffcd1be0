"""Parameters of CLIP from published tensors, through a folder of files."""

import json
import pathlib
import tempfile

import numpy as np
import safetensors.numpy

from paradiff.convert import clip


def write(folder, hf_config, tensors):
  """Write {published name: array} as a folder in the Hugging Face format."""
  root = pathlib.Path(folder)
  (root / "config.json").write_text(json.dumps(hf_config))
  whole = {k: np.array(v, order="C") for k, v in tensors.items()}
  safetensors.numpy.save_file(whole, root / "model.safetensors")


def params_from(hf_config, tensors):
  """Return our tree of the tensors of a published CLIP; none may be left."""
  with tempfile.TemporaryDirectory() as folder:
    write(folder, hf_config, tensors)
    return clip.read(folder)[1]
