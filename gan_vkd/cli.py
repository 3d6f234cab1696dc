"""The commands of vkd."""

import json
from pathlib import Path
from typing import Annotated

import typer

from gan_vkd.auto.reference import are_pictures
from gan_vkd.completion import settings_names
from gan_vkd.front import (
    ENDS,
    DryRun,
    Front,
    Jobs,
    MaxTime,
    OutOrDefault,
    Overrides,
    Resume,
    RunFolder,
    Runs,
    Seeds,
    SweepOut,
    commands,
    example,
    existing,
    in_seconds,
    measured,
    require_data,
    run_app,
)
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.settings_names import extended, files_of
from gan_vkd.runtime.terminal import result
from gan_vkd.script_options import for_scripts
from gan_vkd.tools.commands import Class
from gan_vkd.tools.commands import app as tools
from gan_vkd.tools.seeds import parse_seeds

front = Front(
    program="vkd",
    module="gan_vkd",
    settings=("quickstart", "quickstart_whitening"),
    about="Data-limited GANs with knowledge distilled into the discriminator.",
    trained="a GAN",
    best="generator",
    sweeps=Path("runs/sweep"),
    load="gan_vkd.game.settings:load_settings",
    train="gan_vkd.training:train",
    dry_run="gan_vkd.auto.dry_run:dry_run",
    tables="gan_vkd.report.compare:compare",
    report="gan_vkd.report.html:report",
    export="gan_vkd.exchange:export_generator",
    formats="*.safetensors or *.pth (names as published), or *.onnx.",
    baseline="none",
    compares="tables over runs and over seeds, and a picture",
    picture="samples.png",
    own=("train", "evaluate"),
)
app = commands(front)
app.add_typer(tools)


def main() -> None:
    run_app(app)


@app.command(
    help="Train a GAN on a folder or zip of pictures, or by settings, alone or as one of "
    "torchrun's ranks. For pictures all settings are chosen, and printed with the reasons."
    f"\n\n{ENDS}",
    epilog=example("vkd train ./photos --size 64 --max-time 2h"),
)
@for_scripts
def train(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="PICTURES|CONFIG",
            help="A folder or zip of pictures; or settings: a file, a shipped name, NAME+NAME, or "
            "a run folder.",
            autocompletion=settings_names,
        ),
    ],
    overrides: Overrides = None,
    size: Annotated[
        int | None, typer.Option(help="Longer side in pixels, for pictures: 32, 64, ..., 512.")
    ] = None,
    out: OutOrDefault = None,
    resume: Resume = False,
    max_time: MaxTime = None,
    dry_run: DryRun = False,
) -> None:
    budget = in_seconds(max_time)
    if are_pictures(config):
        from gan_vkd.auto.command import train_pictures

        train_pictures(config, overrides or [], size, out, budget, dry_run)
        return
    if size is not None:
        raise SettingsError(
            f"{config}: no folder or zip of pictures, which --size is for; with settings give "
            "data.resolution=N"
        )
    front.train_settings(config, overrides or [], out, resume, budget, dry_run)


@app.command(epilog=example("vkd quickstart --out runs/digits"))
@for_scripts
def quickstart(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", show_default=False)
    ] = None,
    seeds: Seeds = None,
    jobs: Jobs = "auto",
    out: SweepOut = Path("runs/quickstart"),
) -> None:
    """Train the example on handwritten digits: a teacher, a judge, three arms, and a table.

    Nothing is downloaded. Minutes on two CPU cores; repeat to continue.
    """
    from gan_vkd.quickstart import ARMS, teach_classifiers

    teach_classifiers()
    front.sweep([*ARMS, *(arguments or [])], seeds, jobs, out, None)


@app.command(epilog=example("vkd advise photos --teacher cifar_resnet56=resnet56.th"))
@for_scripts
def advise(
    pictures: Annotated[
        Path, typer.Argument(help="A folder or zip of pictures.", callback=existing)
    ],
    overrides: Overrides = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[@SIZE][=FILE]",
            help="A teacher, its input size and local weights, as cifar_resnet56=FILE; repeat for "
            "more. Default: all whose weights are on this machine.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Longer side in pixels, as for vkd train.")
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="The most pictures that are measured.")] = 1000,
    seconds: Annotated[
        float, typer.Option(min=1, help="For the networks, by which pictures are left out.")
    ] = 240,
    out: Annotated[
        Path | None, typer.Option(help="FILE.md for the same text, or FILE.csv for the tables.")
    ] = None,
) -> None:
    """Rank teachers, their layers and normalisations for pictures, and print settings to paste."""
    from gan_vkd.advise.command import advise as measured

    result(measured(pictures, overrides or [], teacher or [], size, images, seconds, out))


@app.command(epilog=example("vkd configs cifar10_10pct+methods/whitening"))
@for_scripts
def configs(
    name: Annotated[
        str | None,
        typer.Argument(help="NAME or NAME+NAME; default: all.", autocompletion=settings_names),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """List the shipped settings with what they are, or print the settings of a name."""
    import yaml

    from gan_vkd.runtime.settings_file import merged
    from gan_vkd.runtime.settings_names import description, shipped_names

    if name is None:
        about = {name: description(name) for name in shipped_names()}
        width = max(map(len, about))
        lines = (f"{name:<{width}}  {text}".rstrip() for name, text in about.items())
        result("\n".join(lines), configs=about)
        return
    tree = merged(Path(name), overrides)
    result(yaml.safe_dump(tree, sort_keys=False).rstrip(), settings=tree)


@app.command(epilog=example("vkd evaluate runs/mine evaluate.reference=train"))
@for_scripts
def evaluate(
    run: RunFolder,
    overrides: Overrides = None,
    inception: Annotated[
        Path | None, typer.Option(help="A local inception-2015-12-05.pt, for FID and KID.")
    ] = None,
) -> None:
    """Measure a run's best generator with clean-fid, e.g. evaluate.reference=train.

    The run folder may come from others: the downloads and cache of its settings are disabled unless
    they are given here (data.download=true, cache=FOLDER).
    """
    own = overrides or []
    require_data(run, own, given=True)
    from gan_vkd.evaluation.settings import INCEPTION
    from gan_vkd.game.settings import load_settings

    if inception is not None:
        judge = load_settings(run).evaluate.features
        name = judge.name if judge and judge.name in INCEPTION else "inception"
        weights = json.dumps(str(inception), ensure_ascii=False)  # quoted as YAML reads it
        own = [*own, f"evaluate.features={{name: {name}, weights: {weights}}}"]
    settings = load_settings(run, ["cache=null", "data.download=false", *own])
    from gan_vkd.evaluation.evaluator import Evaluator
    from gan_vkd.evaluation.record import distances
    from gan_vkd.networks.standing import as_sampled
    from gan_vkd.run import Run
    from gan_vkd.runtime.devices import pick_device

    device = pick_device(settings.device)
    generator, facts = Run(run).load_generator(device)
    data = settings.data.of_channels(generator.shape.channels)
    evaluator = Evaluator(settings.evaluate, data, device, cache=settings.cache_folder)
    generator = as_sampled(generator, facts["shares"], settings.evaluate)
    record = {"iteration": facts["iteration"]} | evaluator(generator, facts["shares"])
    Run(run).append("evaluations", record)
    judges = ", ".join(f"{judge['name']} {judge['identity']}" for judge in record["judges"])
    measured(record | {"judges": judges} | distances(record))


@app.command(epilog=example("vkd sample runs/mine --out grid.png"))
@for_scripts
def sample(
    run: RunFolder,
    out: Annotated[
        Path,
        typer.Option(
            help="One grid, if it ends in .png, .jpg, .jpeg, .webp, .bmp or .tiff; any other name "
            "is a folder for PNG files."
        ),
    ],
    count: Annotated[int, typer.Option(min=1, help="Number of images, for a folder.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="For latents and labels.")] = 0,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS",
            help="An image for each seed, such as 0-15,42, in place of --count and --seed.",
        ),
    ] = None,
    class_: Class = None,
    truncation: Annotated[
        float,
        typer.Option(min=0, max=2, help="StyleGAN2's psi: 1 all variety, 0 the mean image."),
    ] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Draw images from a run's best generator."""
    wanted = None if seeds is None else parse_seeds(seeds)
    from gan_vkd.networks.sampling import draw_samples
    from gan_vkd.report.pictures import FORMATS, class_grid, grid, save_image, save_png
    from gan_vkd.runtime.files import require_writable
    from gan_vkd.tools.inputs import inputs_of, load, pictures, shares_of

    kind = FORMATS.get(out.suffix.lower())
    require_writable(out if kind else out / "000000.png")
    generator, facts = load(run, device, truncation, alone=wanted is not None)
    shares = shares_of(facts, class_)
    if wanted is not None:
        images = pictures(generator, *inputs_of(generator, shares, wanted))
        names = [f"seed{number:06d}" for number in wanted]
    elif not kind:
        images = draw_samples(generator, shares, count, min(count, 100), seed)
        names = [f"{number:06d}" for number in range(count)]
    if kind:
        picture = class_grid(generator, shares, seed) if wanted is None else grid(images, 10)
        save_image(picture, out, kind)
    else:
        for name, image in zip(names, images, strict=True):
            save_png(image, out / f"{name}.png")
    result(str(out), out=out)


@app.command(epilog=example("vkd export runs/mine generator.safetensors"))
@for_scripts
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help=front.formats)],
    hub: Annotated[
        bool, typer.Option("--hub", help="OUT is a folder, in the layout of huggingface_hub.")
    ] = False,
) -> None:
    """Export a run's best generator, for use without this project, or for the Hugging Face Hub."""
    if hub:
        from gan_vkd.hub import export_generator as export_to_hub

        result(export_to_hub(run, out), file=out)
        return
    result(front.function("export")(run, out), file=out)


@app.command(epilog=example("vkd demo runs/mine runs/other"))
def demo(
    runs: Runs,
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 7860,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Open a page to try trained generators in the browser.

    Samples by class and seed, truncation, interpolation, comparison at the same z, projection of a
    picture. Needs the extra demo: pip install 'gan-vkd[demo]'. Nothing leaves this machine; others
    can open the page only with --host.
    """
    from gan_vkd.demo.server import serve

    serve(runs, host, port, device)


@app.command("import", epilog=example("vkd import G_ema.pth cifar10_10pct --out runs/published"))
@for_scripts
def import_generator(
    weights: Annotated[
        Path,
        typer.Argument(
            help="DiffAugment-BigGAN's G_ema.pth, or StyleGAN2-ADA's networks as safetensors.",
            callback=existing,
        ),
    ],
    config: Annotated[Path, typer.Argument(help="Settings that match the weights.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The run folder to create.")] = Path("runs/imported"),
) -> None:
    """Create a run folder from published weights, to sample, evaluate and compare them."""
    files_of(extended(config, overrides or [])[0])
    from gan_vkd.game.settings import load_settings

    settings = load_settings(config, overrides)
    from gan_vkd.exchange import import_generator as import_weights

    import_weights(weights, settings, out)
    result(str(out), out=out)


@app.command(epilog=example("vkd teach quickstart_teacher --out runs/teacher.safetensors"))
@for_scripts
def teach(
    config: Annotated[Path, typer.Argument(help="Settings of the classifier.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path(
        "runs/teacher.safetensors"
    ),
) -> None:
    """Train a small classifier, to be used as a teacher or a judge."""
    require_data(config, overrides or [])
    from gan_vkd.runtime.files import require_writable
    from gan_vkd.runtime.settings_file import load_as
    from gan_vkd.teachers.teach import TeachSettings
    from gan_vkd.teachers.teach import teach as train_classifier

    settings = load_as(TeachSettings, config, overrides)
    require_writable(out)
    accuracy = train_classifier(settings, out)
    heldout = "no held-out set" if accuracy is None else f"held-out accuracy {accuracy:.1%}"
    result(f"{out}: {heldout}", out=out, accuracy=accuracy)
