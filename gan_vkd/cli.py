"""vkd train | sweep | configs | evaluate | sample | compare | export | import | teach"""

from pathlib import Path
from typing import Annotated

import typer

from gan_vkd.front import Front, Overrides, RunFolder, commands, run_app

front = Front(
    module="gan_vkd",
    about="Data-limited GANs with knowledge distilled into the discriminator.",
    trained="a GAN",
    best="generator",
    sweeps=Path("runs/sweep"),
    load="gan_vkd.game.settings:load_settings",
    train="gan_vkd.training:train",
    tables="gan_vkd.report.compare:compare",
    export="gan_vkd.exchange:export_generator",
    formats="*.safetensors or *.pth (names as published).",
    baseline="none",
    compares="tables over runs and over seeds, one picture",
    picture="samples.png",
    own=("evaluate",),
)
app = commands(front)


def main() -> None:
    run_app(app)


@app.command()
def configs(
    name: Annotated[str | None, typer.Argument(help="NAME or NAME+NAME; all by default.")] = None,
    overrides: Overrides = None,
) -> None:
    """List the shipped settings, or show what a name stands for."""
    import yaml

    from gan_vkd.runtime.settings_file import merged
    from gan_vkd.runtime.settings_names import shipped_names

    if name is None:
        print("\n".join(shipped_names()))
        return
    print(yaml.safe_dump(merged(Path(name), overrides), sort_keys=False), end="")


@app.command()
def evaluate(
    run: RunFolder,
    overrides: Overrides = None,
    inception: Annotated[
        Path | None, typer.Option(help="A local inception-2015-12-05.pt: gives FID and KID.")
    ] = None,
) -> None:
    """Measure a run's best generator with clean-fid, e.g. evaluate.reference=train.

    The run may be a stranger's: nothing is downloaded or kept where its settings say, only where
    yours do (data.download=true, cache=FOLDER).
    """
    from gan_vkd.evaluation.settings import INCEPTION
    from gan_vkd.game.settings import load_settings

    own = overrides or []
    if inception is not None:
        name = load_settings(run).evaluate.features.name
        name = name if name in INCEPTION else "inception"
        own = [*own, f"evaluate.features={{name: {name}, weights: {str(inception)!r}}}"]
    settings = load_settings(run, ["cache=null", "data.download=false", *own])
    from gan_vkd.evaluation.evaluator import Evaluator
    from gan_vkd.evaluation.record import distances
    from gan_vkd.networks.standing import as_sampled
    from gan_vkd.run import Run
    from gan_vkd.runtime.devices import pick_device

    device = pick_device(settings.device)
    generator, facts = Run(run).load_generator(device)
    evaluator = Evaluator(settings.evaluate, settings.data, device, cache=settings.cache_folder)
    generator = as_sampled(generator, facts["shares"], settings.evaluate)
    record = {"iteration": facts["iteration"]} | evaluator(generator, facts["shares"])
    Run(run).append("evaluations", record)
    judges = ", ".join(f"{judge['name']} {judge['identity']}" for judge in record["judges"])
    for key, value in (record | {"judges": judges} | distances(record)).items():
        print(f"{key}: {value}")


@app.command()
def sample(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="A folder for PNG files, or a .png for one grid.")],
    count: Annotated[int, typer.Option(min=1, help="How many images (a folder).")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of latents and labels.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Draw images from a run's best generator."""
    from gan_vkd.networks.sampling import draw_samples
    from gan_vkd.report.pictures import class_grid, save_png
    from gan_vkd.run import Run
    from gan_vkd.runtime.devices import pick_device

    generator, facts = Run(run).load_generator(pick_device(device))
    if out.suffix == ".png":
        save_png(class_grid(generator, facts["shares"], seed), out)
    else:
        images = draw_samples(generator, facts["shares"], count, min(count, 100), seed)
        for index, image in enumerate(images):
            save_png(image, out / f"{index:06d}.png")
    print(out)


@app.command("import")
def import_generator(
    weights: Annotated[Path, typer.Argument(help="A published DiffAugment-BigGAN G_ema.pth.")],
    config: Annotated[Path, typer.Argument(help="Settings that fit it.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The run folder to make.")] = Path("runs/imported"),
) -> None:
    """Make a run folder of published weights, to be sampled, evaluated and compared."""
    from gan_vkd.game.settings import load_settings

    settings = load_settings(config, overrides)
    from gan_vkd.exchange import import_generator as import_weights

    import_weights(weights, settings, out)
    print(out)


@app.command()
def teach(
    config: Annotated[Path, typer.Argument(help="Settings of the classifier.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path(
        "runs/teacher.safetensors"
    ),
) -> None:
    """Train a small classifier on the spot, as a teacher or as a judge."""
    from gan_vkd.runtime.settings_file import load_as
    from gan_vkd.teachers.teach import TeachSettings
    from gan_vkd.teachers.teach import teach as train_classifier

    settings = load_as(TeachSettings, config, overrides)
    accuracy = train_classifier(settings, out)
    heldout = "no held-out set" if accuracy is None else f"{accuracy:.1%} of the held-out set right"
    print(f"{out}: {heldout}")
