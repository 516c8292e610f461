"""Makes fixtures/gguf: what the Python package `gguf` (0.19) writes and reads, for the tests to hold ours against.

  tensors.gguf          a tensor of each type that is read, by the package's own writer
  tensors.safetensors   the numbers they stand for, by the package's own reader
  source.safetensors    some tensors of a transformer
  rounded.safetensors   the bytes that the package rounds its matrix to, in Q8_0
  written-TYPE.gguf     what `rectiflow convert source.safetensors --dtype TYPE` wrote (given as arguments)
  written-TYPE.safetensors  the numbers that the package reads from it

The package rounds to Q8_0 and Q4_0 to Q5_1 itself. Of the K types it only reads, random blocks are made.

  /path/to/python scripts/make_gguf.py [written-q8_0.gguf written-q4_k.gguf]
"""

import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

OUT = Path(__file__).parent.parent / "fixtures" / "gguf"
Type = gguf.GGMLQuantizationType
ROUNDED = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1]
RANDOM = [Type.Q4_K, Type.Q5_K, Type.Q6_K]
# Where a block's f16 scales stand.
SCALES = {Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}


def random_blocks(rng, kind, rows, columns):
    numbers, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // numbers, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scales = rng.uniform(-0.1, 0.1, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
    return blocks.reshape(rows, columns // numbers * size)


def make_tensors(rng):
    writer = gguf.GGUFWriter(OUT / "tensors.gguf", "sd3")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("general.name", "a tensor of each type")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", ""])
    writer.add_array("comfy.gguf.orig_shape.changed", [2, 64, 2, 2])
    writer.add_float32("some.number", 0.5)
    values = {}
    for kind in ROUNDED:
        wide = (rng.standard_normal((3, 256)) * 0.3).astype(np.float32)
        data = quantize(wide, kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values[kind.name] = dequantize(data, kind)
    for kind in RANDOM:
        data = random_blocks(rng, kind, 2, 512)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values[kind.name] = dequantize(data, kind)
    # Reshaped to rows of 256 for a quantiser, as ComfyUI's converter does.
    changed = quantize(rng.standard_normal((2, 256)).astype(np.float32), Type.Q8_0)
    writer.add_tensor("changed", changed, raw_dtype=Type.Q8_0)
    values["changed"] = dequantize(changed, Type.Q8_0).reshape(2, 64, 2, 2)
    writer.add_tensor("row", np.arange(5, dtype=np.float32))
    values["row"] = np.arange(5, dtype=np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(values, OUT / "tensors.safetensors")


def make_source(rng):
    wide = (rng.standard_normal((8, 256)) * 0.1).astype(np.float32)
    wide[0, :64] = 0.0
    # Halves, whose rounding is seen.
    wide[1, :32] = np.concatenate([[127.0], np.arange(31) - 15.5]).astype(np.float32)
    tensors = {
        "joint_blocks.0.x_block.mlp.fc1.weight": wide,
        "joint_blocks.0.x_block.mlp.fc1.bias": rng.standard_normal(8).astype(np.float32),
        # Half as many numbers in a row as a block of Q4_K has.
        "joint_blocks.0.x_block.mlp.fc2.weight": rng.standard_normal((16, 128)).astype(np.float32),
        "final_layer.linear.weight": rng.standard_normal((64, 32)).astype(np.float32),
        "pos_embed": rng.standard_normal((1, 4, 64)).astype(np.float32),
    }
    save_file(tensors, OUT / "source.safetensors")
    save_file({"q8_0": quantize(wide, Type.Q8_0)}, OUT / "rounded.safetensors")


def make_written(path):
    path = Path(path)
    shutil.copyfile(path, OUT / path.name)
    reader = gguf.GGUFReader(path)
    for key in ["general.architecture", "general.file_type", "general.quantization_version"]:
        print(key, reader.get_field(key).contents())
    values = {}
    for tensor in reader.tensors:
        wide = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values[tensor.name] = wide.reshape([int(side) for side in reversed(tensor.shape)])
    types = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    print(len(values), "tensors of types", types)
    save_file(values, OUT / f"{path.stem}.safetensors")


OUT.mkdir(exist_ok=True)
rng = np.random.default_rng(3)
make_tensors(rng)
make_source(rng)
for path in sys.argv[1:]:
    make_written(path)
