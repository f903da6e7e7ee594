"""One target for each importer: its name, the packages that it takes, and where it is.

A target has `seeds`, inputs that have to be read, and `attempt`, which makes an input of choices. It is made in the
process that runs it, with a folder to write its files to.
"""

TARGETS = {
    "onnx": (("onnx",), "formats.onnx_models", "Onnx"),
    "keras_h5": (("h5py",), "formats.keras_files", "KerasH5"),
    "nam": ((), "formats.nam_files", "Nam"),
    "torch": (("torch",), "formats.state_dicts", "Torch"),
    "keras": ((), "formats.state_dicts", "Keras"),
    "flax": ((), "formats.state_dicts", "Flax"),
    "state_dict": ((), "formats.state_dicts", "StateDict"),
    "safetensors": (("safetensors",), "formats.safetensors_files", "Layer"),
    "estimators": (("safetensors",), "formats.safetensors_files", "Estimators"),
    "checkpoint": (("safetensors",), "formats.safetensors_files", "Checkpoint"),
}
