"""Turns arrays of an .npz file into a zip that `edge-tune` reads: labels.csv and one file a row.

    python tools/data/npz_to_zip.py audio_fsdd_mfcc.npz fsdd.zip --x mfcc --y y --split split
    python tools/data/npz_to_zip.py omniglot_small1.npz omniglot.zip --x x --y char \\
        --split drawer --splits train:1-10 val:11-14 test:15-20
    python tools/data/npz_to_zip.py digits_shift.npz usps.zip --x usps_x --y usps_y \\
        --split usps_split

uint8 arrays [n, h, w] or [n, h, w, 3] become PNG files, others .npy files in float32 (float16 is
kept). Rows keep their numbers, so that row lists of the same data stay valid. Needs numpy, and
pillow for pictures.
"""

import argparse
import csv
import io
import zipfile

import numpy as np


def ranges(specs: list[str]) -> dict[int, str]:
    """{code: split} from `train:1-10`, `val:1`, ..."""
    codes = {}
    for spec in specs:
        name, _, span = spec.partition(":")
        first, _, last = span.partition("-")
        for code in range(int(first), int(last or first) + 1):
            codes[code] = name
    return codes


def encode(row: np.ndarray) -> tuple[str, bytes]:
    out = io.BytesIO()
    if row.dtype == np.uint8 and (row.ndim == 2 or row.ndim == 3 and row.shape[2] == 3):
        from PIL import Image

        Image.fromarray(row).save(out, "PNG")
        return "png", out.getvalue()
    np.save(out, np.ascontiguousarray(row if row.dtype == np.float16 else row.astype(np.float32)))
    return "npy", out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("npz")
    parser.add_argument("zip")
    parser.add_argument("--x", default="x", help="array of inputs, rows first")
    parser.add_argument("--y", default="y", help="array of classes")
    parser.add_argument("--split", help="array of split codes")
    parser.add_argument(
        "--splits", nargs="+", default=["train:0", "val:1", "test:2"], help="NAME:CODE[-CODE] ..."
    )
    args = parser.parse_args()

    arrays = np.load(args.npz, allow_pickle=False)
    x, y = arrays[args.x], arrays[args.y]
    splits = arrays[args.split] if args.split else None
    names = ranges(args.splits)
    rows = []
    with zipfile.ZipFile(args.zip, "w", zipfile.ZIP_DEFLATED) as archive:

        def write(name: str, data: bytes) -> None:
            # A fixed date: the same arrays give the same zip.
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)

        for number, row in enumerate(x):
            extension, data = encode(row)
            split = [] if splits is None else [names[int(splits[number])]]
            path = "/".join([*split, str(y[number]), f"{number:06}.{extension}"])
            write(path, data)
            rows.append([path, *split, str(y[number])])
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", *(["split"] if args.split else []), "label"])
        writer.writerows(rows)
        write("labels.csv", text.getvalue().encode())
    print(f"{args.zip}: {len(rows)} rows, {len(set(map(str, y)))} classes")


if __name__ == "__main__":
    main()
