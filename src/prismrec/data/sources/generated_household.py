"""Silhouettes of the generated shop's things for the home: mug, chair, lamp, vase, clock."""

from prismrec.data.sources.generated_shapes import (
    Paint,
    Part,
    Parts,
    arc,
    box,
    ellipse,
    mirrored,
    pie,
    polygon,
    smooth,
    stroke,
    turned,
)


def mug(shape: int) -> Parts:
    """Return a straight mug, a round cup or a tapered jug."""
    if shape == 0:
        body = box(0.24, 0.24, 0.66, 0.80, 0.06)
        handle = arc(0.66, 0.51, 0.125, 0.15, -90, 90, 0.06)
        rim, inside = ellipse(0.45, 0.255, 0.21, 0.042), ellipse(0.45, 0.258, 0.175, 0.026)
    elif shape == 1:
        body = turned((0.25, 0.32), (0.245, 0.45), (0.20, 0.65), (0.12, 0.78), (0.10, 0.80), x=0.44)
        handle = arc(0.66, 0.48, 0.10, 0.105, -100, 115, 0.05)
        rim, inside = ellipse(0.44, 0.32, 0.25, 0.05), ellipse(0.44, 0.325, 0.212, 0.032)
    else:
        body = turned((0.16, 0.18), (0.155, 0.22), (0.185, 0.5), (0.21, 0.80), (0.2, 0.82), x=0.44)
        handle = arc(0.62, 0.50, 0.13, 0.17, -95, 80, 0.05)
        rim, inside = ellipse(0.44, 0.185, 0.165, 0.034), ellipse(0.44, 0.19, 0.132, 0.02)
    return (
        Part(Paint.PLAIN, handle),
        Part(Paint.BODY, body),
        Part(Paint.BODY_LIGHT, rim),
        Part(Paint.INK, inside),
    )


def chair(shape: int) -> Parts:
    """Return a dining chair, an armchair or a lounge chair."""
    if shape == 0:  # A dining chair.
        return (
            Part(Paint.TRIM_DARK, stroke(0.035, (0.37, 0.60), (0.36, 0.84))),
            Part(Paint.TRIM_DARK, stroke(0.035, (0.63, 0.60), (0.64, 0.84))),
            Part(Paint.TRIM, stroke(0.04, (0.32, 0.12), (0.325, 0.6))),
            Part(Paint.TRIM, stroke(0.04, (0.68, 0.12), (0.675, 0.6))),
            Part(Paint.BODY, box(0.30, 0.13, 0.70, 0.43, 0.05)),
            Part(Paint.BODY_LIGHT, polygon((0.31, 0.52), (0.69, 0.52), (0.75, 0.61), (0.25, 0.61))),
            Part(Paint.BODY_DARK, box(0.25, 0.61, 0.75, 0.66, 0.015)),
            Part(Paint.TRIM, stroke(0.042, (0.285, 0.65), (0.26, 0.91))),
            Part(Paint.TRIM, stroke(0.042, (0.715, 0.65), (0.74, 0.91))),
        )
    if shape == 1:  # An armchair.
        return (
            Part(Paint.TRIM, polygon((0.25, 0.78), (0.31, 0.78), (0.28, 0.90), (0.25, 0.90))),
            Part(Paint.TRIM, polygon((0.69, 0.78), (0.75, 0.78), (0.75, 0.90), (0.72, 0.90))),
            Part(Paint.BODY, box(0.24, 0.15, 0.76, 0.72, 0.14)),
            Part(Paint.BODY_LIGHT, box(0.26, 0.52, 0.74, 0.66, 0.045)),
            Part(Paint.BODY_DARK, box(0.22, 0.64, 0.78, 0.79, 0.03)),
            Part(Paint.PLAIN, box(0.14, 0.43, 0.28, 0.80, 0.065)),
            Part(Paint.PLAIN, box(0.72, 0.43, 0.86, 0.80, 0.065)),
        )
    return (  # A lounge chair from the side.
        Part(Paint.TRIM_DARK, stroke(0.036, (0.36, 0.62), (0.24, 0.90))),
        Part(Paint.TRIM_DARK, stroke(0.036, (0.66, 0.64), (0.78, 0.90))),
        Part(
            Paint.BODY_DARK,
            smooth(
                (0.20, 0.14),
                (0.30, 0.12),
                (0.40, 0.50),
                (0.80, 0.52),
                (0.83, 0.62),
                (0.42, 0.68),
                (0.30, 0.58),
            ),
        ),
        Part(Paint.BODY, stroke(0.11, (0.27, 0.15), (0.33, 0.42), (0.44, 0.56), (0.80, 0.56), curved=True)),
        Part(Paint.TRIM, stroke(0.036, (0.37, 0.46), (0.56, 0.42), (0.72, 0.44), curved=True)),
        Part(Paint.TRIM, stroke(0.036, (0.70, 0.44), (0.64, 0.90))),
        Part(Paint.TRIM, stroke(0.036, (0.42, 0.64), (0.36, 0.90))),
    )


def lamp(shape: int) -> Parts:
    """Return a table lamp, a pendant or a mushroom lamp."""
    if shape == 0:  # A table lamp with a cone.
        return (
            Part(Paint.TRIM_DARK, stroke(0.035, (0.5, 0.44), (0.5, 0.60))),
            Part(Paint.TRIM, turned((0.03, 0.56), (0.10, 0.66), (0.125, 0.74), (0.07, 0.84))),
            Part(Paint.TRIM_DARK, box(0.38, 0.83, 0.62, 0.88, 0.02)),
            Part(Paint.CREAM, ellipse(0.5, 0.5, 0.26, 0.03)),
            Part(Paint.BODY, polygon((0.37, 0.12), (0.63, 0.12), (0.77, 0.50), (0.23, 0.50))),
            Part(Paint.BODY_LIGHT, polygon((0.37, 0.12), (0.63, 0.12), (0.64, 0.145), (0.36, 0.145))),
        )
    if shape == 1:  # A pendant.
        return (
            Part(Paint.INK, stroke(0.014, (0.5, -0.2), (0.5, 0.30))),
            Part(Paint.TRIM, box(0.455, 0.24, 0.545, 0.34, 0.02)),
            Part(Paint.CREAM, ellipse(0.5, 0.705, 0.115, 0.075)),
            Part(Paint.BODY, mirrored((0.55, 0.32), (0.66, 0.38), (0.77, 0.52), (0.81, 0.68), curved=True)),
            Part(Paint.BODY_DARK, box(0.18, 0.66, 0.82, 0.70, 0.015)),
        )
    return (  # A mushroom.
        Part(Paint.TRIM, turned((0.05, 0.44), (0.05, 0.62), (0.09, 0.76), (0.18, 0.86))),
        Part(Paint.TRIM_DARK, box(0.31, 0.845, 0.69, 0.88, 0.015)),
        Part(Paint.BODY, pie(0.5, 0.48, 0.33, 0.34, 180, 360)),
        Part(Paint.BODY_LIGHT, ellipse(0.5, 0.48, 0.33, 0.05)),
        Part(Paint.CREAM, ellipse(0.5, 0.485, 0.28, 0.03)),
    )


def vase(shape: int) -> Parts:
    """Return a bottle, an amphora or a flared cylinder, with three sprigs."""
    sprigs = []
    for x, y, lean in ((0.42, 0.10, -0.08), (0.5, 0.04, 0.0), (0.58, 0.12, 0.08)):
        sprigs.append(
            Part(Paint.TRIM_DARK, stroke(0.014, (0.5, 0.36), (0.5 + lean / 3, 0.22), (x, y), curved=True))
        )
        sprigs.append(Part(Paint.TRIM, ellipse(x, y + 0.02, 0.028, 0.04)))
    if shape == 0:  # A bottle neck on a belly.
        body = turned(
            (0.085, 0.30),
            (0.065, 0.36),
            (0.09, 0.46),
            (0.22, 0.62),
            (0.235, 0.74),
            (0.17, 0.86),
            (0.12, 0.89),
        )
        mouth = 0.085, 0.30
    elif shape == 1:  # An amphora, with ears.
        body = turned(
            (0.12, 0.28), (0.10, 0.33), (0.19, 0.42), (0.225, 0.52), (0.17, 0.72), (0.10, 0.85), (0.13, 0.89)
        )
        mouth = 0.12, 0.28
    else:  # A flared cylinder.
        body = turned((0.20, 0.28), (0.16, 0.40), (0.135, 0.60), (0.145, 0.80), (0.165, 0.89))
        mouth = 0.20, 0.28
    ears = (
        arc(0.5 + s * 0.165, 0.40, 0.075, 0.07, 150, 400, 0.03)
        if s > 0
        else arc(0.335, 0.40, 0.075, 0.07, 140, 390, 0.03)
        for s in (1, -1)
    )
    return (
        *sprigs,
        *(Part(Paint.PLAIN, ear) for ear in ears if shape == 1),
        Part(Paint.BODY, body),
        Part(Paint.BODY_LIGHT, ellipse(0.5, mouth[1], mouth[0], 0.02 + mouth[0] * 0.12)),
        Part(Paint.INK, ellipse(0.5, mouth[1] + 0.003, mouth[0] * 0.78, 0.01 + mouth[0] * 0.08)),
    )


def clock(shape: int) -> Parts:
    """Return a round, a square or an alarm clock."""
    y = 0.54 if shape == 2 else 0.5
    r = 0.28 if shape == 2 else 0.36
    inner = r - 0.09
    if shape == 0:
        frame: Parts = (Part(Paint.BODY, ellipse(0.5, y, r, r)),)
    elif shape == 1:
        frame = (Part(Paint.BODY, box(0.5 - r, y - r, 0.5 + r, y + r, 0.07)),)
    else:  # Two bells and two feet.
        frame = (
            Part(Paint.TRIM_DARK, stroke(0.04, (0.36, 0.74), (0.29, 0.88))),
            Part(Paint.TRIM_DARK, stroke(0.04, (0.64, 0.74), (0.71, 0.88))),
            Part(Paint.TRIM, stroke(0.02, (0.5, 0.30), (0.5, 0.16))),
            Part(Paint.TRIM_DARK, box(0.46, 0.13, 0.54, 0.17, 0.015)),
            Part(Paint.TRIM, smooth((0.22, 0.34), (0.24, 0.22), (0.34, 0.16), (0.44, 0.22))),
            Part(Paint.TRIM, smooth((0.78, 0.34), (0.76, 0.22), (0.66, 0.16), (0.56, 0.22))),
            Part(Paint.BODY, ellipse(0.5, y, r, r)),
        )
    marks = []
    for x, v in ((0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)):
        near, far = inner * 0.74, inner * 0.9
        marks.append(
            Part(Paint.INK, stroke(0.02, (0.5 + x * near, y + v * near), (0.5 + x * far, y + v * far)))
        )
    return (
        *frame,
        Part(Paint.TRIM, ellipse(0.5, y, inner + 0.02, inner + 0.02)),
        Part(Paint.CREAM, ellipse(0.5, y, inner, inner)),
        *marks,
        Part(Paint.INK, stroke(0.03, (0.5, y), (0.5 - inner * 0.42, y - inner * 0.30))),
        Part(Paint.INK, stroke(0.02, (0.5, y), (0.5 + inner * 0.42, y - inner * 0.62))),
        Part(Paint.TRIM, ellipse(0.5, y, 0.026, 0.026)),
    )
