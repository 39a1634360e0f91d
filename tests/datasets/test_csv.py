"""A CSV file tells which files there are, and their labels."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import DataLoader

from ai4os_data import StorageDataset
from ai4os_data.errors import EmptyClassError, EmptyDatasetError, LocationError, NotFoundError
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from pathlib import Path

FILES = {f"images/{number}.jpg": f"file {number}" for number in range(3)} | {"images/a, b.jpg": "comma"}


@pytest.fixture(params=["directory", "wsgidav"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Files on this disk, and over WebDAV."""
    place = Folder(tmp_path / "place") if request.param == "directory" else Share(request.getfixturevalue("wsgidav"))
    place.put(FILES)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Files on this disk."""
    folder = Folder(tmp_path / "place")
    folder.put(FILES)
    return folder


def read(place: Folder, text: str | bytes, **options: Any) -> StorageDataset:
    """Open a dataset by a CSV file at the location, without a cache."""
    place.put({"labels.csv": text})
    options = {"key": "filename", "target": "label", "prefix": "images/", "decode": "text", **options}
    return StorageDataset.from_csv(place.location, "labels.csv", remote=place.remote, cache=None, **options)


def everything(dataset: Any) -> list[Any]:
    """Return every sample."""
    return list(dataset)


def test_csv_file_gives_files_and_labels(place: Folder) -> None:
    """In the order of its rows; what else is at the location does not matter."""
    dataset = read(place, "filename,label\n2.jpg,7\n0.jpg,3\n")
    assert everything(dataset) == [("file 2", 7), ("file 0", 3)]
    assert (dataset.keys, dataset.targets, dataset.classes) == (["images/2.jpg", "images/0.jpg"], [7, 3], None)


def test_csv_file_may_be_a_local_one(place: Folder, tmp_path: Path) -> None:
    """A CSV file on this machine is given by its path, as str or Path."""
    local = tmp_path / "mine.csv"
    local.write_text("path,y\nimages/0.jpg,1\n")
    for file in (local, str(local)):
        options: dict[str, Any] = {"key": "path", "target": "y", "remote": place.remote, "cache": None}
        assert StorageDataset.from_csv(place.location, file, **options).targets == [1]
    with pytest.raises(NotFoundError, match=r"'lables\.csv' is neither a file of"):
        StorageDataset.from_csv(place.location, "lables.csv", remote=place.remote, cache=None, key="a")


@pytest.mark.parametrize(
    "text",
    [
        "filename,label\n1.jpg,dog\n0.jpg,cat\n",
        "\ufefffilename,label\r\n1.jpg,dog\r\n0.jpg,cat",
        "filename;label\n1.jpg;dog\n0.jpg;cat\n",
        "filename\tlabel\n1.jpg\tdog\n0.jpg\tcat\n",
        "filename|label\n1.jpg|dog\n0.jpg|cat\n",
        '"filename","label"\n"1.jpg","dog"\n"0.jpg","cat"\n',
        '"filename";"label"\n"1.jpg";"dog"\n"0.jpg";"cat"\n',
        "filename, label\n1.jpg, dog\n0.jpg, cat\n",
        "id,label,weight,filename\n7,dog,1,1.jpg\n8,cat,2,0.jpg\n",
        "filename,label\n\n1.jpg,dog\n,\n0.jpg,cat\n\n",
        "filename,label,\n1.jpg,dog,\n0.jpg,cat,,\n",
        "sep=;\nfilename;label\n1.jpg;dog\n0.jpg;cat\n",
        "filename,label\rx\n".replace("\rx", "") + "./1.jpg,dog\n0.jpg,cat\n",
        "filename;label;note\n1.jpg;dog;a, b, c, d\n0.jpg;cat;\n",
        "filename,label\n1.jpg,dog\n0.jpg,cat\n".encode("utf-16"),
    ],
)
def test_csv_files_are_written_in_many_ways(folder: Folder, text: str | bytes) -> None:
    """Byte order marks, delimiters, quotes, blanks and empty rows are no part of what they say."""
    dataset = read(folder, text)
    assert (dataset.keys, dataset.targets) == (["images/1.jpg", "images/0.jpg"], [1, 0])
    assert dataset.class_to_idx == {"cat": 0, "dog": 1}


def test_quotes_keep_commas_and_new_lines(folder: Folder) -> None:
    """In a name, and in a column that nobody asks for; lines are counted as an editor does."""
    dataset = read(folder, 'filename,label,note\n"a, b.jpg",1,"two\nlines"\n0.jpg,0,"say ""no"""\n')
    assert everything(dataset) == [("comma", 1), ("file 0", 0)]
    with pytest.raises(LocationError, match=r"labels\.csv, line 4: 1 value for the 3 columns"):
        read(folder, 'filename,label,note\n"a, b.jpg",1,"two\nlines"\n0.jpg\n')


def test_identifiers_get_prefix_and_suffix(folder: Folder) -> None:
    """As competitions write them; what is written stays text, so that 007 is no 7."""
    folder.put({"images/007.jpg": "bond"})
    dataset = read(folder, "id,label\n007,1\n1,0\n", key="id", suffix=".jpg")
    assert dataset.keys == ["images/007.jpg", "images/1.jpg"]


def test_file_without_names_of_columns_gets_them(folder: Folder) -> None:
    """Its first line is a row; blanks as delimiters are said to be so."""
    for text, options in (("0.jpg,3\n1.jpg,4\n", {}), ("0.jpg 3\n1.jpg   4\n", {"delimiter": " "})):
        assert read(folder, text, columns=["filename", "label"], **options).targets == [3, 4]


@pytest.mark.parametrize(
    ("labels", "targets"), [(["1", "10"], [1, 10]), (["1", "0.5"], [1.0, 0.5]), (["-1.0", "2.0"], [-1.0, 2.0])]
)
def test_numbers_are_these_numbers(folder: Folder, labels: list[str], targets: list[float]) -> None:
    """Labels that are all integers are integers, and all numbers are floats, as in a split file."""
    dataset = read(folder, "filename,label\n0.jpg,{}\n1.jpg,{}\n".format(*labels))
    assert (dataset.targets, dataset.classes) == (targets, None)
    assert {type(label) for label in targets} == {type(label) for label in dataset.targets or ()}


def test_several_columns_are_a_tuple(folder: Folder) -> None:
    """Each column by itself: integers, floats, or text; ``target_transform`` makes a tensor of them."""
    text = "filename,x,y,who\n0.jpg,1,0.5,ann\n1.jpg,0,2,bob\n"
    assert read(folder, text, target=["x", "y", "who"]).targets == [(1, 0.5, "ann"), (0, 2.0, "bob")]
    assert read(folder, text, target=("x",)).targets == [(1,), (0,)]
    dataset = read(folder, text, target=["x", "y"], target_transform=torch.tensor)
    ((_, labels),) = DataLoader(dataset, batch_size=2)
    assert labels.tolist() == [[1.0, 0.5], [0.0, 2.0]]
    with pytest.raises(ValueError, match="one target= column"):
        read(folder, text, target=["x", "y"], classes=["a"])


def test_function_makes_a_label_of_a_row(folder: Folder) -> None:
    """It gets the texts by column, and its labels are known at once; names of given classes become numbers."""
    text = "filename,x,y\n0.jpg,1,4\n1.jpg,0,9\n"
    assert read(folder, text, target=lambda row: int(row["x"]) + int(row["y"])).targets == [5, 9]
    dataset = read(folder, text, target=lambda row: "big" if int(row["y"]) > 5 else "small", classes=["small", "big"])
    assert (dataset.targets, dataset.classes) == ([0, 1], ["small", "big"])


def test_without_a_target_a_sample_is_x_alone(folder: Folder) -> None:
    """Without target= the CSV file only names the samples."""
    dataset = read(folder, "filename\n0.jpg\n1.jpg\n", target=None)
    assert (everything(dataset), dataset.targets) == (["file 0", "file 1"], None)


def test_given_classes_hold_the_numbers(folder: Folder) -> None:
    """Of names; what is not among them names its line, what is without a row is named too."""
    text = "filename,label\n0.jpg,cat\n1.jpg,emu\n"
    dataset = read(folder, text, class_to_idx={"emu": 0, "dog": 1, "cat": 2}, allow_empty=True)
    assert (dataset.targets, dataset.classes) == ([2, 0], ["emu", "dog", "cat"])
    with pytest.raises(EmptyClassError, match="no sample of 'dog'"):
        read(folder, text, classes=["cat", "dog", "emu"])
    with pytest.raises(
        LocationError, match=r"labels\.csv, line 3: the class 'emu' is none of classes=\['cat', 'dog'\]"
    ):
        read(folder, text, classes=["cat", "dog"])


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (
            "file,label\n0.jpg,1\n",
            {},
            r"no column 'filename'.*its 2 columns, with ',' between them, are 'file', 'label'",
        ),
        ("Filename;Label\n0.jpg;1\n", {}, r"\(did you mean 'Filename'\?\).*with ';'"),
        ("filename,label\n0.jpg,1\n", {"target": ["label", "lable"]}, r"no column 'lable' \(did you mean 'label'\?\)"),
        ("0.jpg,1\n1.jpg,2\n", {}, r"are '0\.jpg', '1'\. Without a line of names in the file, give columns="),
        ("filename,label,label\n0.jpg,1,1\n", {}, "'label' is there twice"),
        ("filename,label\n0.jpg,1\n1.jpg\n", {}, "line 3: 1 value for the 2 columns 'filename', 'label'"),
        ("filename,label\n0.jpg,1\na, b.jpg,1\n", {}, "line 3: 3 values for the 2 columns .* stands in quotes"),
        ("filename,label\n0.jpg,1\n1.jpg,\n2.jpg,\n", {}, "line 3: the label is empty, and in 1 more"),
        ("filename,label\n0.jpg,1\n,2\n", {}, "line 3: there is nothing in the column 'filename'"),
        ("filename,label\n0.jpg,1\n1.jpg,x\n2.jpg,2\n", {}, "line 3: the label 'x' is no finite number, while '1'"),
        ("filename,label\n0.jpg,cat\n1.jpg,dog\n2.jpg,2\n", {}, "line 4: the label '2' is a number, while 'cat'"),
        ("filename;label\n0.jpg;0,5\n", {}, "line 2: is the label '0,5' a number"),
        ('filename,label\n0.jpg,1\n"1.jpg,2\n2.jpg,3\n', {}, "line 3: unexpected end of data; is a quote missing"),
        ("filename,label\nGröße.jpg,1\n".encode("latin-1"), {}, "byte 17 is not UTF-8; save the file as UTF-8"),
        ("filename,x,y\n0.jpg,1,\n", {"target": ["x", "y"]}, "line 2: the label is empty"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    folder: Folder, text: str | bytes, options: dict[str, Any], words: str
) -> None:
    """The error names the line and says what to do, before any sample is read."""
    with pytest.raises(LocationError, match=rf"labels\.csv.*{words}"):
        read(folder, text, **options)


@pytest.mark.parametrize("text", ["", "\n\n", "filename,label\n", "filename,label\n,\n"])
def test_file_without_rows_is_told(folder: Folder, text: str) -> None:
    """An empty file is a mistake, as a pattern without matches is."""
    with pytest.raises(EmptyDatasetError, match=r"labels\.csv"):
        read(folder, text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefix": ""}, r"lacks its folder and its suffix; .* prefix='images/' before it and suffix='\.jpg' after it"),
        ({}, r"has no 'images/0'\..*line 2: 'images/0\.jpg' is there: .*suffix='\.jpg'"),
        ({"prefix": "images", "suffix": ".jpg"}, "a prefix ends with '/'"),
        ({"suffix": "jpg"}, r"a suffix begins with '\.'"),
        ({"suffix": ".JPG"}, "upper and lower case"),
        ({"suffix": ".jpg", "prefix": ""}, "prefix='images/'"),
    ],
)
def test_file_that_is_not_there_is_told_what_it_may_have_meant(
    folder: Folder, options: dict[str, str], words: str
) -> None:
    """The error names the line, and the prefix and suffix that would find the file."""
    with pytest.raises(NotFoundError, match=words):
        read(folder, "id,label\n0,1\n", key="id", **options)


def test_options_that_make_no_sense_are_refused(folder: Folder) -> None:
    """Columns have names, not numbers, and there is no pattern beside a CSV file."""
    with pytest.raises(TypeError, match=r"name columns, not 0; columns="):
        read(folder, "filename,label\n0.jpg,1\n", key=0)
    with pytest.raises(TypeError, match=r"takes no pattern="):
        read(folder, "filename,label\n0.jpg,1\n", pattern="**/*.jpg")


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("images\\0.jpg", ""),
        ("./images/0.jpg", ""),
        ("././images//0.jpg", ""),
        ("other/../images/0.jpg", ""),
        (".\\images\\0.jpg", ""),
        ("./0.jpg", "images/"),
        ("0.jpg", "images\\"),
        ("./0.jpg", "./images//"),
    ],
)
def test_paths_mean_what_they_mean_to_a_system(folder: Folder, path: str, prefix: str) -> None:
    """Parts such as ``./``, ``//`` and ``..`` mean in a key what they mean in a path."""
    assert read(folder, f"filename,label\n{path},1\n", prefix=prefix).keys == ["images/0.jpg"]


def test_name_with_a_backslash_is_that_name(folder: Folder) -> None:
    """A backslash belongs to the name if there is such a file; otherwise it separates folders."""
    folder.put({"images/a\\b.jpg": "odd", "images/c/d.jpg": "usual"})
    dataset = read(folder, "filename,label\na\\b.jpg,1\nc\\d.jpg,2\n")
    assert everything(dataset) == [("odd", 1), ("usual", 2)]


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("images", "'images/0.jpg' is there: a prefix ends with '/'"),
        ("images/images/", "'images/0.jpg' is there: the folders before it are too many"),
    ],
)
def test_prefix_that_does_not_fit_is_told(folder: Folder, prefix: str, words: str) -> None:
    """Not as a path that stands where the label belongs, though there is such a file, too."""
    folder.put({"0.jpg": "above"})
    with pytest.raises(NotFoundError, match=words):
        read(folder, "filename,label\n0.jpg,1\n", prefix=prefix)


def test_function_of_a_row_with_a_column_twice_is_refused(folder: Folder) -> None:
    """Which of the two is meant? Columns without a name, as pandas writes its index, do no harm."""
    with pytest.raises(LocationError, match="the column 'x' is there twice"):
        read(folder, "filename,x,x\n0.jpg,1,2\n", target=lambda row: row["x"])
    dataset = read(folder, ",,filename,x\n5,6,0.jpg,1\n", target=lambda row: row["x"])
    assert everything(dataset) == [("file 0", "1")]


def test_field_may_be_as_long_as_a_mask(folder: Folder) -> None:
    """The module csv takes 131,072 characters, unless it is told otherwise; then it is as it was."""
    before = csv.field_size_limit()
    dataset = read(folder, f"filename,mask,label\n0.jpg,{'1 2 ' * 50_000},7\n")
    assert everything(dataset) == [("file 0", 7)]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("first", ["sep=;\r\n", "SEP=;\n", '"sep=;"\r\n', "\ufeffsep=;\r\n"])
def test_line_that_tells_excel_the_delimiter_is_no_row(folder: Folder, first: str) -> None:
    """A first line ``sep=;`` sets the delimiter and gives no sample, with and without quotes."""
    assert everything(read(folder, f"{first}filename;label\r\n0.jpg;3\r\n")) == [("file 0", 3)]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("1,5", "2,5"), "line 2: is the label '1,5' a number? Write it with a point, '1.5'"),
        (("2", "1,5"), "line 3: is the label '1,5' a number? Write it with a point, '1.5'"),
        (("1.234,5", "2.234,5"), "Write it with a point, '1234.5'"),
        (("-1,5e3", "2,5E-3"), "Write it with a point, '-1.5e3'"),
        ((",5", ",7"), "Write it with a point, '.5'"),
        (('"1,234.5"', '"2,234.5"'), "Write it with a point, '1234.5'"),
    ],
)
def test_numbers_with_a_comma_are_no_classes(folder: Folder, labels: tuple[str, str], words: str) -> None:
    """Labels such as 1,5 and 1.234,5 are refused as numbers with a comma."""
    with pytest.raises(LocationError, match=re.escape(words)):
        read(folder, f"filename;label\n0.jpg;{labels[0]}\n1.jpg;{labels[1]}\n")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_text_of_zero_bytes_is_told(folder: Folder, encoding: str) -> None:
    """UTF-16 without its mark can be read as UTF-8, and makes columns of nothing that anybody wrote."""
    with pytest.raises(LocationError, match="save the file as UTF-8"):
        read(folder, "filename,label\n0.jpg,cat\n".encode(encoding))
