"""A smaller bench of the same recipe: fewer seeds, users, interactions or epochs, and the report says so."""

from dataclasses import dataclass

from prismrec.base.errors import ConfigError
from prismrec.experiments.plan import resolve_row
from prismrec.experiments.recipe import BenchRecipe, DataSection, ModelSection


@dataclass(frozen=True)
class Reduction:
    """Upper bounds for a recipe. None leaves the recipe's own; what is smaller already stays.

    Parameters
    ----------
    seeds
        How many of the recipe's seeds are run, the first ones.
    users
        Users of each data set that are kept at all.
    max_per_user
        Training positives of a user that are kept.
    epochs
        Epochs of each model.
    """

    seeds: int | None = None
    users: int | None = None
    max_per_user: int | None = None
    epochs: int | None = None

    def of(self, recipe: BenchRecipe) -> BenchRecipe:
        """Return the smaller recipe; its `about` tells what was reduced.

        Raises
        ------
        ConfigError
            If a search or a grid chooses the number of epochs, which would go around the bound, or a model or
            setting is unknown.
        """
        words = self._words()
        if not words:
            return recipe
        about = f"{recipe.bench.about} Reduced from the recipe: at most {', '.join(words)}.".strip()
        bench = recipe.bench.model_copy(update={"seeds": recipe.bench.seeds[: self.seeds], "about": about})
        return BenchRecipe(
            bench=bench,
            data=tuple(self._data(section) for section in recipe.data),
            models=tuple(self._model(section) for section in recipe.models),
        )

    def _words(self) -> list[str]:
        bounds = {
            "seeds": self.seeds,
            "users": self.users,
            "training positives a user": self.max_per_user,
            "epochs": self.epochs,
        }
        return [f"{bound} {what}" for what, bound in bounds.items() if bound is not None]

    def _data(self, section: DataSection) -> DataSection:
        return section.model_copy(
            update={
                "users": _smaller(section.users, self.users),
                "max_per_user": _smaller(section.max_per_user, self.max_per_user),
            }
        )

    def _model(self, section: ModelSection) -> ModelSection:
        if self.epochs is None:
            return section
        if "training.epochs" in (*section.search, *section.grid):
            raise ConfigError(
                f"[[model]] {section.shown!r}: it chooses training.epochs, which --max-epochs would bound.",
                "Leave --max-epochs out, or bound the values in the recipe.",
            )
        own = resolve_row(section, {}).training.epochs
        if own <= self.epochs:
            return section
        return section.model_copy(update={"training": {**section.training, "epochs": self.epochs}})


def _smaller(own: int | None, bound: int | None) -> int | None:
    return min((value for value in (own, bound) if value is not None), default=None)
