"""Data sets with several official splits, each in text files of its own: UCF101 and HMDB51."""

from __future__ import annotations

import re

from dualformer.data.files import DataError
from dualformer.data.formats.annotations import FIRST_FOLD, annotation_files, lines_of, of_fold
from dualformer.data.formats.classes import Classes, read_class_ind, read_classes
from dualformer.data.formats.clips import Tree
from dualformer.data.formats.listing import Clip, Listing, Source
from dualformer.data.formats.names import stem_of


def ucf101(source: Source) -> Listing:
    """UCF101: `trainlist01.txt` and `testlist01.txt` of one of three splits, and `classInd.txt`.

    Lines are `Class/v_Class_g08_c01.avi 1` to train on and without the number to test on; numbers count from 1, as in
    `classInd.txt` (`1 Class`). Clips of a group (`g08`) come from one recording. Documented at
    crcv.ucf.edu/data/UCF101.php.
    """
    fold, index_file, lists = source.fold or FIRST_FOLD, None, {}
    for _, path in annotation_files(source, ".txt"):
        if path.name.lower() == "classind.txt":
            index_file = path
        elif match := re.fullmatch(r"(train|test)list(\d+)\.txt", path.name.lower()):
            lists[match[1], int(match[2])] = path
    chosen = {split: of_fold(lists, split, fold, f"{split}list{fold:02d}.txt") for split in ("train", "test")}
    if source.classes:
        classes = Classes(read_classes(source.classes))
    elif index_file:
        classes = Classes(read_class_ind(index_file))
    else:
        raise DataError(f"{chosen['train'].parent}: no classInd.txt among the annotations, and no file of classes")
    tree, clips = Tree(source), []
    for split, path in chosen.items():
        for place, line in lines_of(path):
            name, number = re.findall(r"^(.*?)(?:\s+(\d+))?$", line)[0]
            folder, slash, file_name = name.rpartition("/")
            if not slash:
                raise DataError(f"{place}: '{line}' is not Class/file.avi")
            label = classes.index(folder.rpartition("/")[2], place)
            if number and classes.number(number, place, first=1) != label:
                raise DataError(f"{place}: {number} is class {classes.names[int(number) - 1]}, the folder is {folder}")
            stem = stem_of(file_name)
            group = re.search(r"(_g\d+)_c\d+$", stem)
            recording = f"{folder}{group[1]}" if group else None
            file = tree.find(place, stem, folder)
            if file is None and group:  # some copies spell HandStandPushups as its folder
                file = tree.find(place, f"v_{folder}{group[0]}", folder)
            clips.append(Clip(name, file, label, split, place, recording))
    return Listing(classes.names, tuple(clips))


def hmdb51(source: Source) -> Listing:
    """HMDB51: a file `{class}_test_split{1,2,3}.txt` per class and split.

    Lines are `file.avi N`: 1 to train on, 2 to test on, 0 not in this split. Names begin with the film that the clip
    was cut from, `{film}_{class}_...`. Classes are in alphabetical order. Documented in the `readme.txt` of the splits,
    at serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database.
    """
    fold, lists = source.fold or FIRST_FOLD, {}
    for _, path in annotation_files(source, ".txt"):
        if match := re.fullmatch(r"(.+)_test_split(\d+)\.txt", path.name):
            lists[match[1], int(match[2])] = path
    names = sorted({name for name, _ in lists})
    if not names:
        raise DataError(f"{source.annotations[0][1]}: no files named CLASS_test_split{fold}.txt")
    classes = Classes(read_classes(source.classes) if source.classes else names)
    tree, clips = Tree(source), []
    for name in names:
        path = of_fold(lists, name, fold, f"{name}_test_split{fold}.txt")
        for place, line in lines_of(path):
            file_name, use = ("", *line.rsplit(maxsplit=1))[-2:]
            if not file_name or use not in ("0", "1", "2"):
                raise DataError(f"{place}: '{line}' is not a file and 1 (train), 2 (test) or 0 (unused)")
            if use != "0":
                stem = stem_of(file_name)
                film, found, _ = stem.rpartition(f"_{name}_")
                split = "train" if use == "1" else "test"
                file, label = tree.find(place, stem, name), classes.index(name, place)
                clips.append(Clip(f"{name}/{file_name}", file, label, split, place, film if found else None))
    return Listing(classes.names, tuple(clips))
