"""No class number moves in silence: class folders, given classes, and what systems leave beside the files."""

from __future__ import annotations

import logging
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from ai4os_data import StorageDataset
from ai4os_data.errors import EmptyClassError, EmptyDatasetError, LocationError
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.http.retries import Patience

FILES = {f"{name}/{number}.jpg": f"{name}{number}" for name in ("ant", "bee", "cat") for number in range(2)}


@pytest.fixture(params=["directory", "wsgidav", "nextcloud"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Class folders on this disk, on a WebDAV server, and on the Nextcloud double."""
    if request.param == "directory":
        place = Folder(tmp_path / "place")
    else:
        place = Share(request.getfixturevalue(request.param))
    place.put(FILES)
    return place


def open_dataset(place: Folder, **options: Any) -> StorageDataset:
    """Open a dataset of texts, labelled by folder, without a cache."""
    options = {"target": "folder", "decode": "text", "cache": None, **options}
    return StorageDataset(place.location, remote=place.remote, **options)


def open_keys(place: Folder, *keys: str, **options: Any) -> StorageDataset:
    """Open a dataset of these keys, without a cache."""
    return StorageDataset.from_keys(place.location, keys, remote=place.remote, decode="text", cache=None, **options)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was warned of."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- class folders without a file


def test_class_folder_without_a_matching_file_is_an_error(place: Folder) -> None:
    """As in ImageFolder: it is a FileNotFoundError, and names the folder, what is in it, and the three ways out."""
    place.put({"axe/notes.txt": ""})
    with pytest.raises(
        FileNotFoundError, match=r"'axe' \(1 file, such as 'axe/notes\.txt'\) matches '\*\*/\*\.jpg'"
    ) as e:
        open_dataset(place, pattern="**/*.jpg")
    assert isinstance(e.value, EmptyClassError | EmptyDatasetError)
    assert all(way in str(e.value) for way in ("allow_empty=True", "classes=", "pattern"))


def test_class_folder_without_any_file_is_an_error(place: Folder) -> None:
    """ImageFolder sees it, and so do we: the store is asked for folders, not for files alone."""
    (place.root / "axe").mkdir()
    with pytest.raises(EmptyClassError, match=r"'axe' \(empty\)"):
        open_dataset(place)


def test_class_without_a_file_keeps_its_number_where_that_is_allowed(place: Folder) -> None:
    """The numbers are those that the folders have, with a file or without."""
    (place.root / "axe").mkdir()
    place.put({"bus/notes.txt": ""})
    dataset = open_dataset(place, pattern="**/*.jpg", allow_empty=True)
    assert dataset.classes == ["ant", "axe", "bee", "bus", "cat"]
    assert dataset.targets == [0, 0, 2, 2, 4, 4]


def test_folders_that_the_pattern_does_not_reach_are_no_classes(place: Folder) -> None:
    """What a user wrote tells: ``{bee,cat}/*.jpg`` has two classes, whatever else there is."""
    (place.root / "axe").mkdir()
    dataset = open_dataset(place, pattern="{bee,cat}/*.jpg")
    assert (dataset.classes, dataset.targets) == (["bee", "cat"], [0, 0, 1, 1])
    assert open_dataset(place, pattern=["bee/**", "c*/*"]).classes == ["bee", "cat"]


def test_folders_are_asked_for_once_and_kept_with_the_listing(cloud_share: Share, tmp_path: Path) -> None:
    """Opening with a kept listing stays one request, and still knows the folder without a file."""
    cloud_share.put(FILES)
    (cloud_share.root / "axe").mkdir()
    for attempt in range(3):
        cloud_share.server.forget()
        with pytest.raises(EmptyClassError, match="'axe'"):
            open_dataset(cloud_share, cache=tmp_path / "cache")
        asked = [request.headers["depth"] for request in cloud_share.requests("PROPFIND")]
        assert asked == (["0", "infinity", "1"] if attempt == 0 else ["0"])


def test_kept_listing_without_folders_serves_while_the_server_is_down(
    share: Share, tmp_path: Path, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    """One that was made for samples without labels; that folders are not seen then is told."""
    share.put(FILES)
    open_dataset(share, target=None, cache=tmp_path / "cache")
    with share.down():
        dataset = StorageDataset(share.store(patience), target="folder", cache=tmp_path / "cache")
    assert dataset.classes == ["ant", "bee", "cat"]
    assert any("folders without a file are not seen" in said for said in warnings(caplog))


def test_lock_file_holds_the_class_folders(place: Folder, tmp_path: Path) -> None:
    """A folder that came since does not move a number, one that was empty keeps its own."""
    (place.root / "axe").mkdir()
    lock = tmp_path / "data.lock.json"
    open_dataset(place, allow_empty=True).index.save(lock)
    assert open_dataset(place, index=lock, allow_empty=True).classes == ["ant", "axe", "bee", "cat"]
    (place.root / "abc").mkdir()
    place.put({"aaa/0.jpg": ""})
    dataset = open_dataset(place, index=lock, allow_empty=True)
    assert (dataset.classes, dataset.targets) == (["ant", "axe", "bee", "cat"], [0, 0, 2, 2, 3, 3])


def test_lock_file_without_folders_numbers_its_own_files(place: Folder, tmp_path: Path) -> None:
    """One that was written for samples without labels serves for class folders too."""
    lock = tmp_path / "data.lock.json"
    open_dataset(place, target=None).index.save(lock)
    (place.root / "axe").mkdir()
    assert open_dataset(place, index=lock).classes == ["ant", "bee", "cat"]


# --- classes=, class_to_idx=


def test_given_classes_hold_the_numbers(place: Folder) -> None:
    """In the order in which they are given, by names or as a mapping, or as both that agree."""
    names, numbers = ["cat", "ant", "bee"], {"ant": 1, "bee": 2, "cat": 0}
    for options in ({"classes": names}, {"class_to_idx": numbers}, {"classes": tuple(names), "class_to_idx": numbers}):
        dataset = open_dataset(place, **options)
        assert (dataset.classes, dataset.class_to_idx, dataset.targets) == (names, numbers, [1, 1, 2, 2, 0, 0])


def test_numbers_may_have_gaps(place: Folder) -> None:
    """As in torchvision: classes that are numbered from 1, or a few of COCO's."""
    numbers = {"bee": 17, "ant": 1, "cat": 90}
    dataset = open_dataset(place, class_to_idx=numbers)
    assert (dataset.classes, dataset.class_to_idx) == (["ant", "bee", "cat"], numbers)
    assert dataset.targets == [1, 1, 17, 17, 90, 90]
    place.put({"split.txt": "ant/0.jpg 1\nbee/0.jpg 17\ncat/0.jpg 90\n", "wrong.txt": "ant/0.jpg 2\n"})
    split = StorageDataset.from_split_file(place.location, "split.txt", remote=place.remote, class_to_idx=numbers)
    assert (split.targets, split.class_to_idx) == ([1, 17, 90], numbers)
    with pytest.raises(LocationError, match="there is no class 2: 3 are given, from 1 to 90"):
        StorageDataset.from_split_file(place.location, "wrong.txt", remote=place.remote, class_to_idx=numbers)


def test_split_without_a_class_is_an_error_unless_it_is_allowed(place: Folder) -> None:
    """``classes=train.classes`` gives a validation split the numbers of the training split."""
    train = open_dataset(place)
    place.remove("bee/0.jpg", "bee/1.jpg")
    (place.root / "bee").rmdir()
    with pytest.raises(EmptyClassError, match=r"no sample of 'bee', .*allow_empty=True"):
        open_dataset(place, classes=train.classes)
    dataset = open_dataset(place, classes=train.classes, allow_empty=True)
    assert (dataset.class_to_idx, dataset.targets) == (train.class_to_idx, [0, 0, 2, 2])


def test_class_that_is_not_given_is_an_error_that_names_it(place: Folder) -> None:
    """A file of it would otherwise vanish, or get a number that no model knows."""
    with pytest.raises(LocationError, match=r"'bee/0\.jpg': the class 'bee' is none of classes=\['ant', 'cat'\]"):
        open_dataset(place, classes=["ant", "cat"])
    assert open_dataset(place, pattern="{ant,cat}/*", classes=["ant", "cat"]).targets == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"classes": ["ant", "bee", "ant", "cat"]}, ValueError, "has 'ant' twice"),
        ({"classes": []}, ValueError, "no name"),
        ({"classes": "ant"}, TypeError, "list of names"),
        ({"classes": ["ant", 3]}, TypeError, "3 is none"),
        ({"classes": {"ant": 0}}, TypeError, "list of names"),
        ({"classes": {"ant", "bee", "cat"}}, TypeError, "a set has no order"),
        ({"class_to_idx": {"ant": 0, "bee": 1, "cat": -3}}, ValueError, r"class_to_idx\['cat'\] is -3"),
        ({"class_to_idx": {"ant": 0, "bee": 1, "cat": 1}}, ValueError, "'cat' and 'bee' the same number"),
        ({"class_to_idx": {"ant": 0, "bee": 1, "cat": 2.0}}, ValueError, r"\['cat'\] is 2\.0"),
        ({"class_to_idx": {"ant": 0, "bee": True, "cat": 2}}, ValueError, r"\['bee'\] is True"),
        ({"class_to_idx": {"ant": "0"}}, ValueError, r"\['ant'\] is '0'"),
        ({"class_to_idx": ["ant"]}, TypeError, "mapping"),
        ({"classes": ["ant", "bee"], "class_to_idx": {"ant": 1, "bee": 0}}, ValueError, "disagree"),
        ({"classes": ["ant"], "target": None}, ValueError, "give target="),
    ],
)
def test_classes_that_are_none_are_refused(
    tmp_path: Path, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    """The constructor refuses them, and the error has the wrong name in it."""
    place = Folder(tmp_path / "place")
    place.put(FILES)
    with pytest.raises(kind, match=words):
        open_dataset(place, **options)


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path: Path) -> None:
    """A number of a class is whatever Python takes for an index."""
    place = Folder(tmp_path / "place")
    place.put(FILES)
    numbers = {name: number for number, name in zip(torch.tensor([2, 0, 1]), ("ant", "bee", "cat"), strict=True)}
    assert open_dataset(place, class_to_idx=numbers).classes == ["bee", "cat", "ant"]


def test_names_with_accents_are_the_same_however_they_are_composed(tmp_path: Path) -> None:
    """A Mac takes letters apart, and Nextcloud puts them together; two classes that differ in this alone stay two."""
    apart, together = "a\u0308pfel", "\u00e4pfel"
    place = Folder(tmp_path / "place")
    place.put({f"{apart}/0.jpg": "", "bee/0.jpg": ""})
    dataset = open_dataset(place, classes=["bee", together])
    assert (dataset.targets, dataset.classes) == ([1, 0], ["bee", together])
    assert open_keys(place, "bee/0.jpg", targets=[apart], classes=["bee", together], allow_empty=True).targets == [1]
    place.put({f"{together}/0.jpg": ""})
    assert open_dataset(place, classes=["bee", together, apart]).targets == [2, 0, 1]


def test_mapping_and_function_give_names_where_classes_are_given(place: Folder) -> None:
    """Their labels are names or numbers of the classes; what is neither names its sample."""
    names = ["cat", "ant", "bee"]
    by_key = {key: key.partition("/")[0] for key in FILES}
    assert open_dataset(place, target=by_key, classes=names).targets == [1, 1, 2, 2, 0, 0]
    dataset = open_dataset(place, target=lambda sample: by_key[sample.key], classes=names)
    assert (dataset.targets, dataset.classes, dataset[5]) == (None, names, ("cat1", 0))
    assert open_keys(place, "bee/0.jpg", targets=[1], classes=names, allow_empty=True).targets == [1]
    with pytest.raises(LocationError, match=r"the label 3 is neither the name nor the number"):
        open_keys(place, "bee/0.jpg", targets=[3], classes=names)
    with pytest.raises(LocationError, match=r"'bee/0\.jpg': the class 'dog' is none of classes="):
        open_keys(place, "bee/0.jpg", targets=["dog"], classes=names)


# --- splits of one location


def test_splits_of_keys_have_the_numbers_of_all_class_folders(place: Folder) -> None:
    """Whichever keys are chosen: two splits with other classes agree, and an empty class folder counts in both."""
    (place.root / "axe").mkdir()
    train = open_keys(place, "ant/0.jpg", "cat/0.jpg", target="folder")
    valid = open_keys(place, "bee/1.jpg", target="folder")
    assert train.classes == valid.classes == ["ant", "axe", "bee", "cat"]
    assert (train.targets, valid.targets) == ([0, 3], [2])


def test_refresh_moves_no_class(place: Folder) -> None:
    """A class that came is an error, and the dataset stays as it was; files that came to a class are taken in."""
    dataset = open_dataset(place)
    place.put({"bee/2.jpg": "new"})
    dataset.refresh()
    assert dataset.targets == [0, 0, 1, 1, 1, 2, 2]
    place.put({"axe/0.jpg": "axe"})
    with pytest.raises(LocationError, match="the class 'axe' is none of"):
        dataset.refresh()
    assert (dataset.classes, len(dataset), dataset[4]) == (["ant", "bee", "cat"], 7, ("new", 1))


def test_splits_that_disagree_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing in a validation folder without ``bee`` tells that a class is lacking; the training folder does."""
    for split in ("train", "valid"):
        Folder(tmp_path / split).put(FILES)
    valid = Folder(tmp_path / "valid")
    train = open_dataset(Folder(tmp_path / "train"))
    assert open_dataset(valid).class_to_idx == train.class_to_idx
    assert not warnings(caplog)
    valid.remove("bee/0.jpg", "bee/1.jpg")
    (valid.root / "bee").rmdir()
    assert open_dataset(valid, classes=train.classes, allow_empty=True).targets == [0, 0, 2, 2]
    assert not warnings(caplog)
    open_dataset(valid)
    (said,) = warnings(caplog)
    assert "the class 'cat' has the number 1 here, and 2 in an earlier dataset of" in said
    assert "classes=train.classes" in said


def test_subsets_share_the_classes(place: Folder) -> None:
    """A split of one dataset keeps the numbers of the whole, as with ImageFolder."""
    dataset = open_dataset(place)
    subset: Subset[Any] = Subset(dataset, [5, 0])
    assert [subset[number] for number in range(2)] == [("cat1", 2), ("ant0", 0)]
    assert [dataset.targets[index] for index in subset.indices] == [2, 0]  # type: ignore[index]


def test_classes_travel_with_the_dataset(place: Folder) -> None:
    """To workers and back: a pickled dataset has the same numbers, and its function the same classes."""
    dataset = open_dataset(place, target=_name, classes=["cat", "bee", "ant"])
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301  it was made in this line
    assert (copy.class_to_idx, copy[0]) == ({"cat": 0, "bee": 1, "ant": 2}, ("ant0", 2))
    loader = DataLoader(dataset, batch_size=6, num_workers=1, multiprocessing_context="fork")
    assert [label.tolist() for _, label in loader] == [[2, 2, 1, 1, 0, 0]]


def _name(sample: Any) -> str:
    return str(sample.key.partition("/")[0])


# --- what systems leave behind

JUNK = {
    ".DS_Store": "",
    ".ipynb_checkpoints/0-checkpoint.jpg": "",
    "__MACOSX/ant/._0.jpg": "",
    "ant/._0.jpg": "",
    "ant/.ipynb_checkpoints/0-checkpoint.jpg": "",
    "ant/Thumbs.db": "",
    "bee/desktop.ini": "",
    "bee/.~lock.0.jpg#": "",
    "cat/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg": "",
}


def test_what_systems_leave_behind_is_left_out_and_told_in_one_line(
    place: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no sample and no class; the line counts it, names the first few, and says how to have it."""
    place.put(JUNK)
    dataset = open_dataset(place)
    assert (dataset.keys, dataset.classes) == (sorted(FILES), ["ant", "bee", "cat"])
    (said,) = [said for said in warnings(caplog) if "systems" in said]
    assert "9 of the files are what systems leave behind" in said
    assert "'.DS_Store'" in said
    assert "and 4 more" in said


def test_what_systems_leave_behind_can_be_had(place: Folder, caplog: pytest.LogCaptureFixture) -> None:
    """A pattern that names such a file takes it, and so does its key."""
    place.put(JUNK)
    assert open_dataset(place, pattern="**/._*", target=None).keys == ["__MACOSX/ant/._0.jpg", "ant/._0.jpg"]
    assert open_dataset(place, pattern=".ipynb_checkpoints/*.jpg").classes == [".ipynb_checkpoints"]
    assert open_keys(place, "ant/Thumbs.db", target="folder").targets == [0]
    assert not [said for said in warnings(caplog) if "Thumbs" in said]


def test_where_nothing_else_matches_what_is_left_out_is_told(tmp_path: Path) -> None:
    """A folder of which a Mac has left nothing but its own files is no riddle."""
    place = Folder(tmp_path / "place")
    place.put({"__MACOSX/._0.jpg": ""})
    with pytest.raises(EmptyDatasetError, match=r"'__MACOSX/\._0\.jpg' is what systems leave behind"):
        open_dataset(place)
