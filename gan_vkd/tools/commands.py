"""vkd truncation | mix | interpolate | progress | project: pictures and videos of a trained run."""

from pathlib import Path
from typing import Annotated

import typer

from gan_vkd.front import Overrides, RunFolder, example, existing, require_data
from gan_vkd.runtime.terminal import result
from gan_vkd.script_options import for_scripts
from gan_vkd.tools.seeds import parse_psis, parse_seeds

app = typer.Typer(rich_markup_mode=None)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Picture = Annotated[Path, typer.Option(help="The picture: .png, .jpg, .webp, .bmp or .tiff.")]
Video = Annotated[Path, typer.Option(help="The video: .gif, or .mp4 (pip install '.[video]').")]
Seeds = Annotated[str, typer.Option(metavar="SEEDS", help="Such as 0-15,42.")]
Class = Annotated[
    str | None,
    typer.Option("--class", metavar="CLASS", help="Name or number of a class; default: any."),
]
Psi = Annotated[
    float, typer.Option(min=0, max=2, help="StyleGAN2's psi: 1 all variety, 0 the mean image.")
]


@app.command(epilog=example("vkd truncation runs/mine --out truncation.png"))
@for_scripts
def truncation(
    run: RunFolder,
    out: Picture,
    overrides: Overrides = None,
    seeds: Seeds = "0-7",
    psi: Annotated[
        str, typer.Option(metavar="PSI,...", help="Columns of the picture, rows of the table.")
    ] = "0,0.25,0.5,0.75,1",
    class_: Class = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Evaluate each psi as vkd evaluate does."),
    ] = False,
    device: Device = "auto",
) -> None:
    """Show seeds at several truncations, and measure each.

    The picture has a row for each seed and a column for each psi. With --measure, a table of
    distances, precision and recall is printed and written beside it; overrides are those of
    vkd evaluate, such as evaluate.num_samples=1000.
    """
    wanted, psis = parse_seeds(seeds), parse_psis(psi)
    if measure:
        require_data(run, overrides or [], given=True)
    from gan_vkd.report.pictures import require_picture, save_named
    from gan_vkd.tools.inputs import load, shares_of
    from gan_vkd.tools.truncation import truncation_grid

    require_picture(out)
    generator, facts = load(run, device)
    shares = shares_of(facts, class_)
    save_named(truncation_grid(generator, shares, wanted, psis, run), out)
    result(str(out), out=out)
    if measure:
        from gan_vkd.game.settings import load_settings
        from gan_vkd.report.tables import markdown
        from gan_vkd.runtime.files import write_text
        from gan_vkd.tools.truncation import truncation_table

        settings = load_settings(run, ["cache=null", "data.download=false", *(overrides or [])])
        table = markdown(truncation_table(generator, shares, psis, run, settings))
        write_text(out.with_suffix(".md"), f"{table}\n")
        result(table, table=out.with_suffix(".md"))


@app.command(epilog=example("vkd mix runs/mine --out mix.png --rows 0-3 --columns 10-15"))
@for_scripts
def mix(
    run: RunFolder,
    out: Picture,
    rows: Seeds = "0-3",
    columns: Seeds = "10-15",
    layers: Annotated[
        str,
        typer.Option(
            help="Layers with the style of the column: coarse (4 and 8 pixels), middle (16 and "
            "32), fine (from 64 on), or numbers, such as 2-5."
        ),
    ] = "middle",
    truncation: Psi = 1.0,
    class_: Class = None,
    device: Device = "auto",
) -> None:
    """Mix the styles of seeds in a grid (StyleGAN2)."""
    of_rows, of_columns = parse_seeds(rows, "--rows"), parse_seeds(columns, "--columns")
    from gan_vkd.report.pictures import require_picture, save_named
    from gan_vkd.tools.inputs import load, shares_of
    from gan_vkd.tools.mixing import mixing_grid, parse_layers
    from gan_vkd.tools.styles import with_styles

    require_picture(out)
    generator, facts = load(run, device)
    network = with_styles(generator, run, "style mixing")
    network.truncate(truncation)
    chosen = parse_layers(layers, network.synthesis.styles)
    picture = mixing_grid(network, shares_of(facts, class_), of_rows, of_columns, chosen)
    save_named(picture, out)
    result(str(out), out=out)


@app.command(epilog=example("vkd interpolate runs/mine --out walk.gif --seeds 0-3"))
@for_scripts
def interpolate(
    run: RunFolder,
    out: Video,
    seeds: Seeds = "0-5",
    class_: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="CLASS,...",
            help="A class, or several to pass through, one a seed; default: the seeds'.",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="From one seed to the next.")] = 60,
    fps: Annotated[int, typer.Option(min=1, max=100, help="Frames in a second.")] = 30,
    space: Annotated[
        str | None,
        typer.Option(help="z (spherical) or w (linear); default: w if the network has it."),
    ] = None,
    truncation: Psi = 1.0,
    device: Device = "auto",
) -> None:
    """Make a video of a walk between seeds and classes.

    It goes back to the first seed, so that it can be repeated.
    """
    wanted = parse_seeds(seeds)
    from gan_vkd.tools.captions import enlarged
    from gan_vkd.tools.inputs import load
    from gan_vkd.tools.interpolation import interpolated, points, space_of
    from gan_vkd.tools.video import require_video, write_video

    require_video(out)
    generator, facts = load(run, device, truncation)
    classes = [] if class_ is None else class_.split(",")
    latents, labels = points(generator, facts, wanted, classes or [None])
    chosen = space_of(generator, space, run)
    walk = interpolated(generator, latents, labels, frames, chosen)
    write_video((enlarged(frame, 128) for frame in walk), out, fps)
    result(str(out), out=out)


@app.command(epilog=example("vkd progress runs/mine --out training.gif"))
@for_scripts
def progress(
    run: RunFolder,
    out: Video,
    fps: Annotated[int, typer.Option(min=1, max=100, help="Grids in a second.")] = 5,
) -> None:
    """Make a video of a training from its sample grids.

    The run stores one every train.sample_every iterations; the last one is held for two seconds.
    """
    from gan_vkd.tools.progress import progress_frames, sample_grids
    from gan_vkd.tools.video import require_video, write_video

    require_video(out)
    write_video(progress_frames(sample_grids(run), held=2 * fps), out, fps)
    result(str(out), out=out)


@app.command(epilog=example("vkd project runs/mine photo.jpg --out projected"))
@for_scripts
def project(
    run: RunFolder,
    picture: Annotated[Path, typer.Argument(help="An image file.", callback=existing)],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("projected"),
    space: Annotated[
        str | None, typer.Option(help="w, w+ or z; default: w if the network has it.")
    ] = None,
    class_: Class = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of updates.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="For latents and noise.")] = 0,
    video: Annotated[
        Path | None, typer.Option(help="Video of the course: .gif, or .mp4.", show_default=False)
    ] = None,
    device: Device = "auto",
) -> None:
    """Find the latent of a given picture.

    The distance is taken on the run's judge (its discriminator, if that is Inception or there is
    none), or on another network: evaluate.features.name=NAME evaluate.features.weights=FILE.
    """
    from gan_vkd.game.settings import load_settings
    from gan_vkd.tools.projection import project as find
    from gan_vkd.tools.projection_files import require_files, save_projection
    from gan_vkd.tools.projection_of_run import search_in

    require_files(out, video)
    settings = load_settings(run, ["data.download=false", *(overrides or [])])
    search, target = search_in(run, settings, picture, space, class_, steps, seed, device)
    found = find(search)
    said = save_projection(found, target, {"seed": seed, "steps": steps}, out, video)
    result(said, out=out)
