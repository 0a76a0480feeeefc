"""Registries of kinds (methods, tasks, towers, language models, families), and the loader of plug-ins that fill them.

A kind is a small frozen descriptor that holds all that is known of a thing, in one place.
"""

from llava.kinds.plugins import Plugin, PluginError, load_plugins, loaded_plugins, plugin_records
from llava.kinds.registry import Registry

__all__ = ["Plugin", "PluginError", "Registry", "load_plugins", "loaded_plugins", "plugin_records"]
