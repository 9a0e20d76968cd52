"""One class for an image, by what its model's head reads: the class token, or all patches too."""

from __future__ import annotations

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.tasks.classification import Classification


class ImageClassification(Classification):
    """Image classification as transformers has it."""

    auto_class = "AutoModelForImageClassification"
    pipeline = "image-classification"
    modality = "image"
    keys = ("image_column", "image_size")
    texts_a_row = (0, 0)

    def columns(self, config: TaskConfig) -> tuple[str, ...]:
        """The images and their labels."""
        return tuple(filter(None, (config.image_column, config.label_column)))

    def check(self, config: TaskConfig) -> None:
        """A column of images, beside what classes need."""
        if config.image_column is None:
            raise ConfigError("task.image_column=null: name the column of images")
        super().check(config)


TASK = ImageClassification()
