"""The labels of samples: from folders, mappings, functions and split files."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import Sample, StorageDataset
from ai4os_data.errors import EmptyClassError, EmptyDatasetError, LocationError, NotFoundError, SampleError
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "rose/1.jpg": "r1",
    "rose/with space.jpg": "r2",
    "daisy/deeper/2.jpg": "d1",
    "10 tulips/3.jpg": "t1",
}


@pytest.fixture(params=["directory", "wsgidav"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Class folders of files on this disk, and over WebDAV."""
    place = Folder(tmp_path / "place") if request.param == "directory" else Share(request.getfixturevalue("wsgidav"))
    place.put(FILES)
    return place


def open_dataset(place: Folder, **options: Any) -> StorageDataset:
    """Open a dataset of texts without a cache."""
    return StorageDataset(place.location, remote=place.remote, decode="text", cache=None, **options)


def open_split(place: Folder, file: str | Path, **options: Any) -> StorageDataset:
    """Open a dataset of texts by a split file, without a cache."""
    return StorageDataset.from_split_file(
        place.location, file, remote=place.remote, decode="text", cache=None, **options
    )


def everything(dataset: Any) -> list[Any]:
    """Return every sample."""
    return list(dataset)


# --- target=


def test_without_a_target_a_sample_is_x_alone(place: Folder) -> None:
    """Without target= an item is no tuple, and the dataset has no classes."""
    dataset = open_dataset(place)
    assert everything(dataset) == ["t1", "d1", "r1", "r2"]
    assert (dataset.targets, dataset.classes, dataset.class_to_idx) == (None, None, None)


def test_folder_labels_are_those_of_image_folder(place: Folder) -> None:
    """The first folder is the class; classes are numbered in sorted order; files deeper below belong to it."""
    dataset = open_dataset(place, target="folder")
    assert dataset.classes == ["10 tulips", "daisy", "rose"]
    assert dataset.class_to_idx == {"10 tulips": 0, "daisy": 1, "rose": 2}
    assert dataset.targets == [0, 1, 2, 2]
    assert everything(dataset) == [("t1", 0), ("d1", 1), ("r1", 2), ("r2", 2)]


def test_folder_labels_need_folders(place: Folder) -> None:
    """A file beside the class folders is named, with what to do about it."""
    place.put({"ai4os.log": "", "train.txt": ""})
    with pytest.raises(LocationError, match=r"'ai4os\.log', 'train\.txt' lie in none\. Narrow the pattern"):
        open_dataset(place, target="folder")
    assert open_dataset(place, target="folder", pattern="*/**/*.jpg").targets == [0, 1, 2, 2]


def test_mapping_gives_any_label(place: Folder) -> None:
    """A label is whatever the mapping holds; keys that are in it alone do not matter."""
    labels: dict[str, Any] = {key: {"boxes": [number]} for number, key in enumerate(sorted(FILES))}
    dataset = open_dataset(place, target={**labels, "elsewhere.jpg": None})
    assert dataset.targets == [{"boxes": [number]} for number in range(4)]
    assert everything(dataset)[1] == ("d1", {"boxes": [1]})


def test_mapping_that_lacks_labels_names_them(place: Folder) -> None:
    """The files without a label are told when the dataset is made, not in the third epoch."""
    with pytest.raises(LocationError, match=r"no label for '10 tulips/3\.jpg', 'rose/1\.jpg', 'rose/with space\.jpg'$"):
        open_dataset(place, target={"daisy/deeper/2.jpg": 1})


def test_function_labels_a_sample_by_its_key_and_content(share: Share) -> None:
    """A callable gets the sample that was decoded, so its bytes cost no further request."""
    share.put(FILES)

    def label(sample: Sample) -> tuple[str, int]:
        return sample.key.rpartition("/")[2], len(sample.bytes())

    dataset = open_dataset(share, target=label)
    assert everything(dataset)[3] == ("r2", ("with space.jpg", 2))
    assert dataset.targets is None
    assert len(share.requests("GET")) == 4


def test_error_of_a_label_function_names_the_sample(share: Share) -> None:
    """An error in a label function names the sample, as an error in ``decode`` does."""
    share.put(FILES)
    dataset = open_dataset(share, target=lambda sample: {}[sample.key])
    with pytest.raises(SampleError, match=r"sample 3 \('rose/with space\.jpg'\).*KeyError"):
        dataset[3]


@pytest.mark.parametrize(("target", "kind"), [("folders", ValueError), ([0, 1, 2, 3], TypeError), (7, TypeError)])
def test_other_targets_are_refused(place: Folder, target: Any, kind: type[Exception]) -> None:
    """The message tells what a target may be."""
    with pytest.raises(kind, match=r"target is None, 'folder', a mapping.*or a callable"):
        open_dataset(place, target=target)


# --- split files

SPLIT = "rose/with space.jpg 2\n10 tulips/3.jpg 0\nrose/1.jpg 2\n"
SPLIT_ITEMS = [("r2", 2), ("t1", 0), ("r1", 2)]


def test_split_file_of_the_location_gives_its_lines(place: Folder) -> None:
    """Path and label, in the order of the lines; the label is what follows the last space."""
    place.put({"splits/train.txt": SPLIT})
    dataset = open_split(place, "splits/train.txt")
    assert dataset.keys == ["rose/with space.jpg", "10 tulips/3.jpg", "rose/1.jpg"]
    assert everything(dataset) == SPLIT_ITEMS
    assert (dataset.targets, dataset.classes) == ([2, 0, 2], None)


def test_split_file_may_be_a_local_one(place: Folder, tmp_path: Path) -> None:
    """By its path, as str or Path; a key of the location goes before a local file of that name."""
    local = tmp_path / "my split.txt"
    local.write_text(SPLIT)
    assert everything(open_split(place, str(local))) == SPLIT_ITEMS
    assert everything(open_split(place, local)) == SPLIT_ITEMS


def test_split_file_may_come_from_windows(share: Share) -> None:
    """A byte order mark, CRLF, backslashes, blank lines and a last line without an end are no part of the names."""
    share.put({**FILES, "train.txt": "\ufeff" + SPLIT.replace("\n", "\r\n\r\n").replace("/", "\\").rstrip()})
    assert everything(open_split(share, "train.txt")) == SPLIT_ITEMS


def test_split_file_may_begin_its_paths_with_the_folder(share: Share) -> None:
    """``./`` means the location, and more than one space or a tab may stand before the label."""
    share.put({**FILES, "train.txt": "./rose/1.jpg\t2\n./10 tulips/3.jpg    -1\n"})
    assert everything(open_split(share, "train.txt")) == [("r1", 2), ("t1", -1)]


def test_split_file_keeps_names_that_only_look_like_two_lines(share: Share) -> None:
    """What Unicode, but no editor, takes for the end of a line may be part of a name."""
    share.put({"a/one\u2028two\x85.jpg": "odd", "train.txt": "a/one\u2028two\x85.jpg 1\n"})
    assert everything(open_split(share, "train.txt")) == [("odd", 1)]


def test_split_file_with_names_as_labels_has_classes(place: Folder) -> None:
    """Labels that are all names are classes, numbered in sorted order as those of folders."""
    place.put({"train.txt": "rose/1.jpg rose\n10 tulips/3.jpg emu\nrose/with space.jpg rose\n"})
    dataset = open_split(place, "train.txt")
    assert dataset.classes == ["emu", "rose"]
    assert dataset.class_to_idx == {"emu": 0, "rose": 1}
    assert everything(dataset) == [("r1", 1), ("t1", 0), ("r2", 1)]


@pytest.mark.parametrize("label", ["²", "--1", "0x1", "\u0661", "1_0", "1e", "nan", "inf", "1e999", "v1.5"])
def test_label_that_is_no_number_is_a_name(share: Share, label: str) -> None:
    """Only what ASCII writes as a finite decimal number is one."""
    share.put({**FILES, "train.txt": f"rose/1.jpg {label}\n"})
    assert open_split(share, "train.txt").classes == [label]


@pytest.mark.parametrize(
    ("labels", "targets"),
    [
        (["3", "10", "2"], [3, 10, 2]),
        (["01", "+1", "-1"], [1, 1, -1]),
        (["0.5", "1.25", "10.0"], [0.5, 1.25, 10.0]),
        (["1.0", "0.0", "1."], [1.0, 0.0, 1.0]),
        (["3", "10", "2.5"], [3.0, 10.0, 2.5]),
        (["1e3", "-.5", "2E-1"], [1000.0, -0.5, 0.2]),
    ],
)
def test_numbers_of_a_split_file_are_these_numbers(share: Share, labels: list[str], targets: list[float]) -> None:
    """All integers are integers; as soon as one is not, all are floats. None of them is a class."""
    lines = zip(("rose/1.jpg", "10 tulips/3.jpg", "rose/with space.jpg"), labels, strict=True)
    share.put({**FILES, "train.txt": "".join(f"{key} {label}\n" for key, label in lines)})
    dataset = open_split(share, "train.txt")
    assert (dataset.targets, dataset.classes) == (targets, None)
    assert {type(label) for label in dataset.targets or ()} == {type(targets[0])}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["3", "10", "x"], r"line 4: the label 'x' is no finite number, while '3' in line 1 is a number"),
        (["rose", "10", "rose"], r"line 3: the label '10' is a number, while 'rose' in line 1 is no finite number"),
        (["3", "nan", "2"], r"line 3: the label 'nan' is no finite number"),
        (["3", "1.5", "0x1"], r"line 4: the label '0x1' is no"),
        (["0,5", "1,25", "2,0"], r"line 1: is the label '0,5' a number\? Write it with a point, '0\.5'"),
    ],
)
def test_mixture_of_numbers_and_names_names_the_line(share: Share, labels: list[str], words: str) -> None:
    """Of what is rarer, with an example of the rest, and what to do where all are names."""
    first, *others = zip(("rose/1.jpg", "10 tulips/3.jpg", "rose/with space.jpg"), labels, strict=True)
    share.put({**FILES, "train.txt": "\n\n".join([" ".join(first), "\n".join(map(" ".join, others))])})
    with pytest.raises(LocationError, match=f"train.txt, {words}.*classes="):
        open_split(share, "train.txt")


def test_names_that_look_like_numbers_are_names_where_classes_say_so(share: Share) -> None:
    """What a user gives as names of classes are names; the numbers of given classes are numbers."""
    share.put({**FILES, "train.txt": "rose/1.jpg rose\n10 tulips/3.jpg 10\n", "ids.txt": "rose/1.jpg 1\n"})
    dataset = open_split(share, "train.txt", classes=["rose", "10"])
    assert (dataset.targets, dataset.classes) == ([0, 1], ["rose", "10"])
    ids = open_split(share, "ids.txt", classes=["rose", "tulip"], allow_empty=True)
    assert (ids.targets, ids.class_to_idx) == ([1], {"rose": 0, "tulip": 1})
    with pytest.raises(LocationError, match=r"ids\.txt, line 1: there is no class 1: 1 are given, from 0 to 0"):
        open_split(share, "ids.txt", classes=["rose"])


def test_split_without_a_class_is_an_error_unless_it_is_allowed(share: Share) -> None:
    """``classes=train.classes`` gives a validation split the numbers of the training split."""
    share.put({**FILES, "train.txt": "rose/1.jpg b\n10 tulips/3.jpg a\nrose/with space.jpg c\n"})
    share.put({"valid.txt": "rose/1.jpg c\n10 tulips/3.jpg a\n", "other.txt": "rose/1.jpg a\n10 tulips/3.jpg d\n"})
    train = open_split(share, "train.txt")
    with pytest.raises(EmptyClassError, match="no sample of 'b'"):
        open_split(share, "valid.txt", classes=train.classes)
    assert open_split(share, "valid.txt", classes=train.classes, allow_empty=True).targets == [2, 0]
    with pytest.raises(LocationError, match=r"other\.txt, line 2: the class 'd' is none of"):
        open_split(share, "other.txt", classes=train.classes, allow_empty=True)


@pytest.mark.parametrize(
    "line",
    [
        "rose/with space.jpg\tGolden Retriever",
        "rose/with space.jpg\t  Golden Retriever  ",
        'rose/with space.jpg "Golden Retriever"',
        "rose/with space.jpg 'Golden Retriever'",
        '"rose/with space.jpg" Golden Retriever',
        "'rose/with space.jpg'   \"Golden Retriever\"",
        "rose/with space.jpg\tGolden Retriever # checked",
        '# my split\n  # of 2026\nrose/with space.jpg "Golden Retriever" # checked',
    ],
)
def test_split_file_may_have_tabs_quotes_and_comments(share: Share, line: str) -> None:
    """A tab, or quotes, keep blanks in a path or a label; a ``#`` begins a comment."""
    share.put({**FILES, "train.txt": f"{line}\n"})
    dataset = open_split(share, "train.txt")
    assert (dataset.keys, dataset.classes) == (["rose/with space.jpg"], ["Golden Retriever"])


def test_file_whose_name_looks_like_a_comment_is_not_lost(share: Share) -> None:
    """Where there is such a file, the line is no silent comment; ``./`` before it, or quotes, tell what is meant."""
    share.put({**FILES, "#1.jpg": "odd", "a # b.jpg": "odder", "train.txt": "#1.jpg 1\n"})
    with pytest.raises(LocationError, match=r"train\.txt, line 1: '#1\.jpg 1' is a comment, but there is such a file"):
        open_split(share, "train.txt")
    share.put({"train.txt": './#1.jpg 1\n"a # b.jpg" 0\n'})
    assert everything(open_split(share, "train.txt")) == [("odd", 1), ("odder", 0)]
    share.put({"train.txt": "a # b.jpg 0\n"})
    with pytest.raises(LocationError, match=r"line 1: .* put a path with ' # ' in it in quotes"):
        open_split(share, "train.txt")


@pytest.mark.parametrize(
    "line", ["filename,label", "rose/1.jpg,1", "rose/1.jpg, 1", "rose/1.jpg;1", '"rose/1.jpg","1"', '"rose/1.jpg", 1']
)
def test_csv_in_the_place_of_a_split_file_is_told_what_reads_it(share: Share, line: str) -> None:
    """The error names the line, and the call that reads CSV."""
    share.put({**FILES, "train.txt": f"{line}\n"})
    with pytest.raises(
        LocationError, match=r"train\.txt, line 1: .*StorageDataset\.from_csv\(location, 'train\.txt', key="
    ):
        open_split(share, "train.txt")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 rose/1.jpg", r"'rose/1\.jpg' stands where the label belongs"),
        ("rose/1.jpg 3 4", r"'rose/1\.jpg' is there: a line has one label"),
        ("/storage/flowers/rose/1.jpg 1", r"'rose/1\.jpg' is there: the folders before it"),
        ("flowers/rose/1.jpg 1", r"'rose/1\.jpg' is there: the folders before it"),
        ("ROSE/1.JPG 1", r"'rose/1\.jpg' is there: upper and lower case"),
        ("rose/1 1", r"'rose/1\.jpg' is there: the path lacks its suffix; .*suffix='\.jpg'"),
        ("1.jpg 1", r"'rose/1\.jpg' is there: the path lacks its folder; .*prefix='rose/'"),
        ("rose/with space.jpg,1", r"from_csv\(location"),
    ],
)
def test_path_that_is_not_there_is_told_what_it_may_have_meant(share: Share, line: str, words: str) -> None:
    """The message has the line, and a file that is there and looks like it."""
    share.put({**FILES, "train.txt": f"\n{line}\n"})
    with pytest.raises(NotFoundError, match=rf"'train\.txt' lists them, the first in line 2.*{words}"):
        open_split(share, "train.txt")


def test_two_labels_in_quotes_or_after_a_tab_are_refused(share: Share) -> None:
    """Several numbers are several labels, for which there is another way."""
    share.put({**FILES, "train.txt": "rose/1.jpg\t3 4\n"})
    with pytest.raises(LocationError, match=r"line 1: '3 4' is more than one label; from_csv\(…, target=\[…\]\)"):
        open_split(share, "train.txt")


def test_split_file_may_be_utf_16(share: Share) -> None:
    """UTF-16 with a byte order mark, as Windows writes it, is read."""
    share.put({**FILES, "train.txt": SPLIT.encode("utf-16")})
    assert everything(open_split(share, "train.txt")) == SPLIT_ITEMS


def test_line_without_a_label_is_named_by_its_number(place: Folder) -> None:
    """The message shows the file, the line and what a line looks like."""
    place.put({"train.txt": SPLIT + "\nrose/1.jpg\n"})
    with pytest.raises(LocationError, match=r"train\.txt, line 5: 'rose/1\.jpg' is not 'path label'"):
        open_split(place, "train.txt")


def test_files_of_a_split_that_are_missing_are_named(place: Folder) -> None:
    """A split file of another version of the data, or for another folder, shows when the dataset is made."""
    place.put({"train.txt": SPLIT + "rose/4.jpg 2\nrose/5.jpg 2\n"})
    with pytest.raises(NotFoundError, match=r"has no 'rose/4\.jpg', 'rose/5\.jpg'\. 'train\.txt' lists them"):
        open_split(place, "train.txt")


def test_split_file_that_is_nowhere_is_told(place: Folder) -> None:
    """The error says that the file was looked for at the location and on this machine."""
    with pytest.raises(NotFoundError, match=r"'vaild\.txt' is neither a file of .* nor a local one"):
        open_split(place, "vaild.txt")


def test_split_file_without_lines_is_told(place: Folder) -> None:
    """An empty split file is a mistake, as a pattern without matches is."""
    place.put({"train.txt": "\n\n"})
    with pytest.raises(EmptyDatasetError, match=r"train\.txt: no line says 'path label'"):
        open_split(place, "train.txt")


def test_split_file_that_is_not_utf_8_is_told(place: Folder) -> None:
    """The error names the byte that is not UTF-8, and says what to do."""
    place.put({"train.txt": "rose/Größe.jpg 1".encode("latin-1")})
    with pytest.raises(LocationError, match=r"train\.txt: byte 7 is not UTF-8; save .* as UTF-8"):
        open_split(place, "train.txt")


@pytest.mark.parametrize("option", ["pattern", "target"])
def test_split_file_takes_no_pattern_and_no_target(place: Folder, option: str) -> None:
    """The split file says both, so an option that would be ignored is refused."""
    place.put({"train.txt": SPLIT})
    with pytest.raises(TypeError, match=f"from_split_file takes no {option}="):
        open_split(place, "train.txt", **{option: "folder"})


def test_keys_are_given_as_paths_are_written(share: Share) -> None:
    """Path objects, ``./`` and what Windows writes, too; an odd name that is there is that name."""
    share.put({"a/b.txt": "1", "c\\d.txt": "2", "c/d.txt": "3"})
    keys: list[Any] = ["./a/b.txt", "a\\b.txt", "a//b.txt", "c\\d.txt", PurePosixPath("c/d.txt")]
    dataset = StorageDataset.from_keys(share.location, keys, [1, 2, 3, 4, 5], remote=share.remote, cache=None)
    assert dataset.keys == ["a/b.txt"] * 3 + ["c\\d.txt", "c/d.txt"]
    assert dataset.targets == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("keys", "targets", "words"),
    [
        ("a.txt", None, "keys is a list of keys, not 'a.txt'"),
        ({"a.txt"}, None, "a set has no order"),
        ([1], None, "a key is a path below the location, as text, not 1"),
        ([None], None, "not None"),
        (["a.txt", "b.txt"], {1, 2}, "targets is a list with a label for each key"),
        (["a.txt", "b.txt"], "ab", "targets is a list"),
        (["a.txt"], iter([1]), "targets is a list"),
    ],
)
def test_keys_and_labels_without_an_order_are_refused(tmp_path: Path, keys: Any, targets: Any, words: str) -> None:
    """Sets are refused: a label would belong to another sample in each run."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).touch()
    with pytest.raises(TypeError, match=words):
        StorageDataset.from_keys(tmp_path, keys, targets)
