"""torch.hub's door: model = torch.hub.load("OWNER/REPO", "student", "student.safetensors")."""

dependencies = [
    "torch",
    "torchvision",
    "timm",
    "safetensors",
    "numpy",
    "PIL",
    "pydantic",
    "tqdm",
    "yaml",
]


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
