"""Settings that choose a component of a registry: a discriminated union, made from constructors."""

from functools import cache
from importlib.metadata import entry_points

ENTRY_POINTS = "gan_vkd.components"  # modules that register components when they are imported


@cache
def load_plugins() -> None:
    """Imports what installed packages add: their entry points of the group ENTRY_POINTS."""
    for plugin in entry_points(group=ENTRY_POINTS):
        plugin.load()
