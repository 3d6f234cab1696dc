"""The server of the demo: on this machine alone unless told otherwise."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import reason
from gan_vkd.runtime.stopping import handled


def serve(paths: list[Path], host: str, port: int, device: str) -> None:
    """Serves the page of the runs until SIGINT or SIGTERM.

    Raises:
        VkdError: Gradio is not installed, the address is taken, or a run cannot be read.
    """
    with (
        handled([signal.SIGTERM], signal.default_int_handler),
        suppress(KeyboardInterrupt),
        served(paths, host, port, device) as address,
    ):
        print(f"{address}  (Ctrl-C stops)", flush=True)
        Event().wait()


@contextmanager
def served(paths: list[Path], host: str, port: int, device: str) -> Iterator[str]:
    """Context in which the page is served; gives its address.

    Args:
        paths: run folders.
        host: name or address to listen on.
        port: 0 for any free one.
        device: as in the settings.

    Raises:
        VkdError: as in `serve`.
    """
    with TemporaryDirectory(prefix="vkd-demo-") as folder:
        # read by Gradio when it is imported, and when a page is made
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": folder,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "no_proxy": "*",  # Gradio asks its own server at the start
        }
        try:
            import_module("gradio")
        except ImportError:
            raise VkdError("vkd demo needs Gradio: pip install 'gan-vkd[demo]'") from None
        port = free_port(host, port)
        from gan_vkd.data.images import MAX_FILE_BYTES
        from gan_vkd.demo.page import CSS, HEAD, THEME, build
        from gan_vkd.demo.runs import open_run

        runs = [open_run(path, device) for path in paths]
        page = build(dict(zip(names(paths), runs, strict=True)), Path(folder))
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                inline=False,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                max_file_size=MAX_FILE_BYTES,
                _frontend=False,  # no test of the page within 3 seconds, in which a busy CPU fails
                theme=THEME,
                css=CSS,
                head=HEAD,
            )
            yield address
        finally:
            page.close(verbose=False)


def names(paths: list[Path]) -> list[str]:
    """The names of the folders, or their paths if names would be equal."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def free_port(host: str, port: int) -> int:
    """Returns the port, or a free one for 0.

    Raises:
        VkdError: it is taken, or cannot be listened on.
    """
    try:
        with socket.create_server((host, port)) as listening:
            return listening.getsockname()[1]
    except OSError as error:
        raise VkdError(
            f"{host}:{port}: cannot be listened on ({reason(error)}); choose another --port"
        ) from None
