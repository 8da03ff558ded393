"""YAML as people write it: plain values, and no key given twice, of which the last would count silently."""

from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """Plain values; a key that is given twice, or is no word, is an error of YAML."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, each of whose keys is there once."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise yaml.constructor.ConstructorError(None, None, "a key that is not a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given a second time", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(text: str | bytes) -> Any:
    """Return the value that a text says.

    Raises:
        ValueError: If it is not YAML, with the line and what is wrong there.
    """
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(what_is_wrong(error)) from error


def what_is_wrong(error: BaseException) -> str:
    """Return what the parser of YAML complains about in one line, with the place where it says one."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (getattr(error, "problem", None) or " ".join(str(error).split()))
