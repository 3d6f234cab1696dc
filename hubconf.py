"""Entry points of torch.hub, generator and student.

model = torch.hub.load("OWNER/REPO", "student", "student.safetensors")
"""

dependencies = [
    "torch",
    "torchvision",
    "timm",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "PIL",
    "pydantic",
    "tqdm",
    "yaml",
]


def generator(source: str, device: str = "cpu"):
    """A trained generator, in eval mode: `images = model.draw(16, seed=0)`.

    It maps latents (B, z_dim) and labels (B,) to images (B, C, H, W) in [-1, 1]; `facts` on it
    holds the classes, their frequencies and their names.

    Args:
        source: a run folder, its generator.safetensors, a folder of `vkd export RUN FOLDER --hub`,
            or OWNER/NAME on the Hugging Face Hub.
        device: where it is put.
    """
    from gan_vkd.hub import load_generator

    return load_generator(source, device)


def student(weights: str):
    """A student that `vkd-classify export RUN student.safetensors` wrote, in eval mode.

    It takes normalised images (B, 3, R, R); `facts` on it holds the mean, the standard deviation,
    the resolution and the names of the classes.
    """
    from pathlib import Path

    from classification.recognition.run import read_student

    network, facts = read_student(Path(weights))
    network.facts = facts
    return network
