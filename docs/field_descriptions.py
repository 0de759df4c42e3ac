"""Shows the descriptions and defaults of pydantic fields on the reference pages."""

import ast
from typing import Any

import griffe


class FieldDescriptions(griffe.Extension):
    """Turns ``name: type = Field(default, description="...")`` into a documented attribute."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Take the description as docstring, and the default (where there is one) as value."""
        call = attr.value
        if attr.docstring or not isinstance(call, griffe.ExprCall) or str(call.function) != "Field":
            return
        named = {a.name: a.value for a in call.arguments if isinstance(a, griffe.ExprKeyword)}
        if "description" not in named:
            return
        text = ast.literal_eval(str(named["description"]))
        bounds = [f"{name} {named[key]}" for key, name in _BOUNDS.items() if key in named]
        if bounds:
            text += f" Must be {' and '.join(bounds)}."
        attr.docstring = griffe.Docstring(text, parent=attr)
        positional = [a for a in call.arguments if not isinstance(a, griffe.ExprKeyword)]
        attr.value = positional[0] if positional else named.get("default")


_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
