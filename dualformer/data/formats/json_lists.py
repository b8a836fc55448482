"""Data sets that list their clips in JSON: Something-Something V2 and Diving48."""

from __future__ import annotations

import re

from dualformer.data.files import DataError
from dualformer.data.formats.annotations import annotation_files, entries, is_list_of, lines_of, read_json, split_of
from dualformer.data.formats.classes import Classes, read_classes
from dualformer.data.formats.clips import Tree
from dualformer.data.formats.listing import Clip, Listing, Source
from dualformer.data.formats.names import join


def something_something_v2(source: Source) -> Listing:
    """Something-Something V2: JSON lists of clips, and a JSON mapping from class to index.

    A clip is `{"id", "label", "template", "placeholders"}`; its class is the template without its brackets, its file
    `{id}.webm`. The test list has ids only; those clips are left out, unless `test-answers.csv` (lines `id;class`, in
    later downloads) is given as well. Papers report the validation split. Files are told apart by content and name
    (`something-something-v2-train.json`, or `train.json` in later downloads). Documented in the data set's technical
    report, "Moving Objects Dataset: Something-Something v. 2", at its download page.
    """
    lists, mapping = [], source.classes
    answers: dict[str, str] = {}
    for split, path in annotation_files(source, ".json", ".csv"):
        if "answers" in path.name:
            answers |= {line.split(";", 1)[0]: line.split(";", 1)[1] for _, line in lines_of(path) if ";" in line}
            continue
        content = read_json(path)
        if isinstance(content, dict):
            mapping = path
        else:
            lists.append((split_of(path, split), path, content))
    if mapping is None:
        raise DataError(f"{join(path.name for _, path, _ in lists)}: no JSON mapping from class to index among them")
    classes, clips, unlabelled, tree = Classes(read_classes(mapping)), [], 0, Tree(source)
    for split, path, content in lists:
        for place, entry in entries(path, content, "id"):
            if split is None:
                raise DataError(f"{path}: which split is this? Its name doesn't tell; write train={path.name} or alike")
            name = str(entry["id"])
            template = entry.get("template", answers.get(name))
            if template is None:
                if split != "test":
                    raise DataError(f"{place}: no 'template'; it has: {join(entry)}")
                unlabelled += 1
                continue
            label = classes.index(re.sub(r"[\[\]]", "", str(template)), place)
            clips.append(Clip(name, tree.find(place, name, split), label, split, place))
    return Listing(classes.names, tuple(clips), unlabelled)


def diving48(source: Source) -> Listing:
    """Diving48: JSON lists for training and testing, and the vocabulary, a JSON list of the four words of each class.

    A clip is `{"vid_name", "label", "start_frame", "end_frame"}`, its file `{vid_name}.mp4`, already cut: the frames
    say how many it has. Labels index the vocabulary from 0. `vid_name` ends with the number of the clip within its
    recording. Where lists of V1 and V2 lie side by side, V2 is taken, which corrects the labels. Documented at
    www.svcl.ucsd.edu/projects/resound/dataset.html.
    """
    contents = [(split, path, read_json(path)) for split, path in annotation_files(source, ".json")]
    vocabulary = [path for _, path, content in contents if is_list_of((list, str), content)]
    lists = [entry for entry in contents if entry[1] not in vocabulary]
    lists = [entry for entry in lists if "_v2_" in entry[1].name.lower()] or lists
    if not vocabulary and source.classes is None:
        raise DataError(f"{join(path.name for _, path, _ in lists)}: no vocabulary (Diving48_vocab.json) among them")
    classes, tree, clips = Classes(read_classes(source.classes or vocabulary[0])), Tree(source), []
    for split, path, content in lists:
        split = split_of(path, split)
        if split is None:
            raise DataError(f"{path}: which split is this? Its name doesn't tell; write train={path.name} or the like")
        for place, entry in entries(path, content, "vid_name", "label"):
            name, frames = str(entry["vid_name"]), None
            if isinstance(entry.get("start_frame"), int) and isinstance(entry.get("end_frame"), int):
                frames = entry["end_frame"] - entry["start_frame"]
            label = classes.number(str(entry["label"]), place)
            recording = re.sub(r"_\d+$", "", name)
            clips.append(Clip(name, tree.find(place, name, split), label, split, place, recording, frames))
    return Listing(classes.names, tuple(clips))
