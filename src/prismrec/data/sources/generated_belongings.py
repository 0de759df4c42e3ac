"""Silhouettes of the generated shop's things to wear, carry and play: shirt to radio."""

import numpy as np

from prismrec.data.sources.generated_shapes import (
    Paint,
    Part,
    Parts,
    arc,
    box,
    ellipse,
    mirrored,
    pie,
    smooth,
    stroke,
)


def shirt(shape: int) -> Parts:
    """Return a T-shirt with a round or a pointed neck, or with long sleeves."""
    neck = ((0.5, 0.235), (0.55, 0.225), (0.60, 0.16))
    if shape == 1:
        neck = ((0.5, 0.33), (0.555, 0.24), (0.60, 0.155))
    trunk = ((0.5, 0.86), (0.71, 0.86), (0.70, 0.46))
    if shape == 2:  # Long sleeves.
        sleeve = ((0.80, 0.84), (0.90, 0.81), (0.83, 0.33), (0.75, 0.21))
    else:
        sleeve = ((0.80, 0.47), (0.93, 0.40), (0.83, 0.25), (0.75, 0.20))
    right = (*neck, *sleeve[::-1], *trunk[::-1])
    collar = stroke(
        0.03, (0.405, 0.16), (0.455, 0.23), neck[0], (0.545, 0.23), (0.595, 0.16), curved=shape != 1
    )
    hem = [sleeve[0], sleeve[1]]
    cuffs = []
    for side in (1.0, -1.0):
        a, b = ((0.5 + side * (x - 0.5), y) for x, y in hem)
        cuffs.append(Part(Paint.BODY_DARK, stroke(0.03, a, b)))
    back = mirrored((0.5, 0.15), (0.59, 0.15), (0.55, 0.24), (0.5, 0.34 if shape == 1 else 0.26))
    return (
        Part(Paint.BODY_DARK, back),
        Part(Paint.BODY, mirrored(*right)),
        *cuffs,
        Part(Paint.PLAIN, collar),
    )


def sneaker(shape: int) -> Parts:
    """Return a low or a high sneaker, or a slip-on."""
    sole = Part(
        Paint.CREAM,
        smooth(
            (0.10, 0.70),
            (0.14, 0.67),
            (0.5, 0.70),
            (0.88, 0.68),
            (0.92, 0.72),
            (0.88, 0.77),
            (0.5, 0.78),
            (0.14, 0.77),
        ),
    )
    tread = Part(Paint.INK, box(0.13, 0.755, 0.89, 0.785, 0.014))
    toe = Part(Paint.CREAM, smooth((0.74, 0.71), (0.76, 0.60), (0.86, 0.62), (0.91, 0.71)))
    if shape == 2:  # A slip-on.
        upper = smooth(
            (0.09, 0.70),
            (0.09, 0.52),
            (0.13, 0.38),
            (0.24, 0.44),
            (0.38, 0.46),
            (0.46, 0.40),
            (0.54, 0.40),
            (0.76, 0.53),
            (0.91, 0.63),
            (0.91, 0.72),
            (0.5, 0.73),
        )
        return (
            Part(Paint.BODY, upper),
            Part(Paint.PLAIN, smooth((0.34, 0.46), (0.47, 0.42), (0.50, 0.56), (0.40, 0.58))),
            sole,
            tread,
        )
    top = 0.24 if shape == 1 else 0.40
    upper = smooth(
        (0.11, 0.70),
        (0.12, 0.52),
        (0.13, top + 0.02),
        (0.19, top),
        (0.36, top + 0.01),
        (0.42, top + 0.08),
        (0.56, 0.49),
        (0.78, 0.59),
        (0.90, 0.65),
        (0.90, 0.72),
        (0.5, 0.73),
    )
    laces = []
    for step in range(4 if shape == 1 else 3):
        x, y = 0.55 - 0.055 * step, 0.485 - (0.075 if shape == 1 else 0.045) * step
        laces.append(Part(Paint.CREAM, stroke(0.02, (x - 0.07, y + 0.055), (x + 0.03, y))))
    return (
        Part(Paint.BODY, upper),
        Part(Paint.PLAIN, smooth((0.105, 0.70), (0.12, 0.52), (0.20, 0.53), (0.25, 0.70))),
        Part(Paint.PLAIN, stroke(0.05, (0.34, top + 0.05), (0.42, top + 0.14), (0.58, 0.54))),
        *laces,
        toe,
        sole,
        tread,
    )


def backpack(shape: int) -> Parts:
    """Return a round backpack, one with a flap, or a roll top."""
    handle = Part(Paint.PLAIN, arc(0.5, 0.15, 0.075, 0.06, 180, 360, 0.03))
    straps = tuple(
        Part(
            Paint.PLAIN,
            stroke(0.05, (0.5 + s * 0.24, 0.34), (0.5 + s * 0.33, 0.5), (0.5 + s * 0.30, 0.78), curved=True),
        )
        for s in (1, -1)
    )
    if shape == 0:  # Round top.
        body = mirrored(
            (0.5, 0.13), (0.64, 0.15), (0.745, 0.30), (0.76, 0.55), (0.77, 0.82), (0.72, 0.88), curved=True
        )
        return (
            handle,
            *straps,
            Part(Paint.BODY, body),
            Part(Paint.INK, arc(0.5, 0.42, 0.18, 0.17, 190, 350, 0.014)),
            Part(Paint.BODY_DARK, box(0.30, 0.55, 0.70, 0.82, 0.07)),
            Part(Paint.TRIM, box(0.31, 0.615, 0.69, 0.635)),
        )
    if shape == 1:  # Flap and two buckles.
        flap = mirrored((0.5, 0.15), (0.66, 0.15), (0.75, 0.20), (0.755, 0.44), (0.70, 0.50), (0.5, 0.52))
        return (
            handle,
            *straps,
            Part(Paint.BODY, box(0.25, 0.18, 0.75, 0.88, 0.07)),
            Part(Paint.BODY_DARK, box(0.30, 0.60, 0.70, 0.83, 0.05)),
            Part(Paint.PLAIN, flap),
            *(Part(Paint.TRIM, box(x - 0.025, 0.38, x + 0.025, 0.66, 0.01)) for x in (0.38, 0.62)),
            *(Part(Paint.CREAM, box(x - 0.035, 0.56, x + 0.035, 0.61, 0.01)) for x in (0.38, 0.62)),
        )
    return (  # A roll top.
        *straps,
        Part(Paint.BODY, mirrored((0.69, 0.24), (0.74, 0.60), (0.75, 0.86), (0.70, 0.89))),
        Part(Paint.PLAIN, box(0.27, 0.12, 0.73, 0.25, 0.05)),
        Part(Paint.TRIM, box(0.47, 0.11, 0.53, 0.42, 0.01)),
        Part(Paint.CREAM, box(0.455, 0.37, 0.545, 0.43, 0.012)),
        Part(Paint.INK, box(0.33, 0.56, 0.67, 0.575)),
        Part(Paint.BODY_DARK, box(0.29, 0.70, 0.71, 0.84, 0.03)),
    )


def ukulele(shape: int) -> Parts:
    """Return a figure of eight, a pineapple, or one with horns."""
    if shape == 0:  # A figure of eight.
        body = mirrored(
            (0.5, 0.47),
            (0.615, 0.49),
            (0.65, 0.56),
            (0.62, 0.635),
            (0.69, 0.73),
            (0.68, 0.86),
            (0.57, 0.94),
            (0.5, 0.945),
            curved=True,
        )
    elif shape == 1:  # A pineapple.
        body = mirrored(
            (0.5, 0.46), (0.60, 0.49), (0.68, 0.66), (0.68, 0.82), (0.58, 0.93), (0.5, 0.945), curved=True
        )
    else:  # A soundless board with horns.
        body = smooth(
            (0.42, 0.56),
            (0.36, 0.46),
            (0.30, 0.52),
            (0.33, 0.66),
            (0.28, 0.80),
            (0.36, 0.92),
            (0.5, 0.94),
            (0.66, 0.92),
            (0.72, 0.80),
            (0.67, 0.66),
            (0.73, 0.48),
            (0.65, 0.44),
            (0.57, 0.56),
        )
    hole: Parts = (Part(Paint.INK, ellipse(0.5, 0.66, 0.06, 0.06)),)
    if shape == 2:
        hole = (
            Part(Paint.INK, box(0.42, 0.65, 0.58, 0.69, 0.015)),
            Part(Paint.INK, box(0.42, 0.75, 0.58, 0.79, 0.015)),
        )
    pegs = tuple(
        Part(Paint.INK, ellipse(0.5 + s * 0.075, y, 0.022, 0.017)) for s in (1, -1) for y in (0.09, 0.15)
    )
    strings = tuple(Part(Paint.CREAM, stroke(0.005, (x, 0.14), (x, 0.83))) for x in (0.485, 0.5, 0.515))
    parts = (
        *pegs,
        Part(Paint.TRIM_DARK, mirrored((0.56, 0.05), (0.565, 0.17), (0.53, 0.21))),
        Part(Paint.BODY, body),
        Part(Paint.TRIM, box(0.468, 0.18, 0.532, 0.60)),
        *hole,
        *strings,
        Part(Paint.TRIM_DARK, box(0.42, 0.825, 0.58, 0.855, 0.01)),
    )
    # Stouter than drawn above: a true one is too slim to show its pattern in a small picture.
    stout = np.array([1.25, 0.94])
    return tuple(Part(part.paint, (part.outline - 0.5) * stout + 0.5) for part in parts)


def radio(shape: int) -> Parts:
    """Return a portable radio, a tall speaker, or a radio with a fretted arch."""
    if shape == 0:  # A portable with an aerial.
        bars = (Part(Paint.INK, box(0.57, y, 0.79, y + 0.02, 0.01)) for y in (0.59, 0.64, 0.69))
        return (
            Part(Paint.INK, stroke(0.016, (0.72, 0.36), (0.86, 0.08))),
            Part(Paint.TRIM, arc(0.5, 0.38, 0.26, 0.14, 185, 355, 0.035)),
            Part(Paint.BODY, box(0.12, 0.36, 0.88, 0.82, 0.06)),
            Part(Paint.TRIM, ellipse(0.34, 0.59, 0.165, 0.165)),
            Part(Paint.INK, ellipse(0.34, 0.59, 0.135, 0.135)),
            Part(Paint.TRIM_DARK, ellipse(0.34, 0.59, 0.05, 0.05)),
            Part(Paint.TRIM, box(0.54, 0.43, 0.82, 0.74, 0.03)),
            Part(Paint.CREAM, box(0.57, 0.455, 0.79, 0.54, 0.02)),
            Part(Paint.INK, box(0.66, 0.455, 0.675, 0.54)),
            *bars,
        )
    if shape == 1:  # A tall box with two cones.
        cones = []
        for y, r in ((0.30, 0.10), (0.62, 0.17)):
            cones += [
                Part(Paint.TRIM, ellipse(0.5, y, r + 0.03, r + 0.03)),
                Part(Paint.INK, ellipse(0.5, y, r, r)),
                Part(Paint.TRIM_DARK, ellipse(0.5, y, r * 0.4, r * 0.4)),
            ]
        return (Part(Paint.BODY, box(0.25, 0.12, 0.75, 0.88, 0.05)), *cones)
    return (  # A cathedral, with a fretted arch.
        Part(Paint.TRIM_DARK, box(0.20, 0.82, 0.80, 0.88, 0.02)),
        Part(
            Paint.BODY,
            mirrored((0.5, 0.11), (0.64, 0.16), (0.75, 0.34), (0.77, 0.60), (0.77, 0.84), curved=True),
        ),
        Part(Paint.TRIM, mirrored((0.5, 0.21), (0.59, 0.25), (0.65, 0.38), (0.65, 0.53), curved=True)),
        *(
            Part(Paint.INK, stroke(0.026, (0.5 + dx, 0.27 + 1.6 * abs(dx) ** 1.4), (0.5 + dx, 0.51)))
            for dx in (-0.1, -0.05, 0.0, 0.05, 0.1)
        ),
        Part(Paint.TRIM, pie(0.5, 0.70, 0.16, 0.135, 180, 360)),
        Part(Paint.CREAM, pie(0.5, 0.68, 0.125, 0.095, 180, 360)),
        Part(Paint.INK, stroke(0.012, (0.5, 0.68), (0.54, 0.60))),
        *(Part(Paint.INK, ellipse(x, 0.75, 0.035, 0.035)) for x in (0.34, 0.66)),
    )
