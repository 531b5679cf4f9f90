"""Every input shape of domain.md §4."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

import pytest

from quel_dagster.errors import JobInputError
from quel_dagster.jobs.model import Category, Job, JobStatus, JobType, Plan, Reference, Unit
from quel_dagster.jobs.planning import Limits, plan_job
from quel_dagster.jobs.requests import DEFAULT_PROMPT


def plan(job_type: str, data: Any, total: int = 4, path: str | None = "fashion", limits: Limits | None = None) -> Plan:
    job = Job(
        job_id=UUID(int=1),
        production_id=UUID(int=2),
        job_type=job_type,
        job_status=JobStatus.PENDING,
        total_images=total,
        input_data=data,
        member_id=None,
        org_id=None,
        production_path=path,
    )
    return plan_job(job, limits or Limits())


def only(job_type: str, data: Any, total: int = 4, path: str = "fashion") -> Unit:
    (unit,) = plan(job_type, data, total, path).units
    return unit


def stages(*quantities: Any) -> dict[str, Any]:
    return {"stages": [{"stage_index": i, "quantity": quantity} for i, quantity in enumerate(quantities)]}


def quantities(data: Any, total: int, job_type: str = "pipeline_stage") -> list[int]:
    return [unit.quantity for unit in plan(job_type, data, total).units]


def refused(job_type: str, data: Any, total: int = 4, limits: Limits | None = None) -> str:
    with pytest.raises(JobInputError) as caught:
        plan(job_type, data, total, limits=limits)
    return str(caught.value)


def repairs(planned: Plan) -> dict[str, str]:
    return {repair.path: repair.problem for repair in planned.repairs}


# --- the four job types ------------------------------------------------------------------------------


def test_the_two_stage_example_of_the_contract() -> None:
    references = [{"attachId": 39070, "type": "model"}, {"attachId": 39071, "type": "top"}]
    planned = plan(
        "pipeline_stage",
        {
            "userId": "6f1c1f0e-9d7b-4c6e-8f43-0e5c2a7b9d11",
            "aspect-ratio": "9:16",
            "stages": [
                {"stage_index": 0, "prompt": "Stage 0 prompt", "quantity": 2, "individualImageAttachIds": references},
                {"stage_index": 1, "prompt": "Stage 1 prompt", "quantity": 2, "individualImageAttachIds": references},
            ],
        },
    )
    assert planned.job_type is JobType.PIPELINE_STAGE
    assert planned.repairs == ()
    first, second = planned.units
    assert first == Unit(
        index=0,
        key="stage0",
        quantity=2,
        prompt="Stage 0 prompt",
        aspect_ratio="9:16",
        references=(Reference(attach_id=39070, type="model"), Reference(attach_id=39071, type="top")),
        stage_index=0,
    )
    assert (second.index, second.key, second.prompt, second.stage_index) == (1, "stage1", "Stage 1 prompt", 1)


def test_a_batch_makes_one_unit_per_combination() -> None:
    planned = plan(
        "single_batch",
        {
            "basePrompt": "walk",
            "negative_prompt": "rain",
            "angle": "back",
            "shotType": "middle",
            "individualImageAttachIds": [{"attachId": 7, "type": "model"}],
            "combinations": [
                {"angle": "front", "shot": "tight", "quantity": 1},
                {"quantity": 2},
                {"angle": "45-degree", "shot": "Hero Shot", "quantity": 1, "fx": "Aura"},
            ],
        },
    )
    assert [unit.key for unit in planned.units] == [
        "combo0_front_tight",
        "combo1_back_middle",
        "combo2_45_degree_hero_shot",
    ]
    assert [(unit.angle, unit.shot, unit.fx) for unit in planned.units] == [
        ("front", "tight", "none"),
        ("back", "middle", "none"),
        ("45-degree", "Hero Shot", "aura"),
    ]
    assert {(unit.prompt, unit.negative_prompt, unit.references) for unit in planned.units} == {
        ("walk", "rain", (Reference(attach_id=7, type="model"),))
    }
    assert planned.repairs == ()


@pytest.mark.parametrize("combinations", [{}, {"combinations": None}, {"combinations": []}, {"combinations": [None]}])
def test_a_batch_without_combinations_is_front_and_full(combinations: dict[str, Any]) -> None:
    unit = only("single_batch", combinations, 3)
    assert (unit.key, unit.angle, unit.shot, unit.quantity) == ("combo0_front_full", "front", "full", 3)
    assert unit.prompt == DEFAULT_PROMPT == "best quality, masterpiece"
    assert unit.aspect_ratio == "16:9"


def test_camera_words_without_a_latin_name_leave_a_readable_key() -> None:
    unit = only("single_batch", {"combinations": [{"angle": "정면", "shot": "full"}]})
    assert unit.key == "combo0_full"
    assert unit.angle == "정면"


def test_stages_have_their_own_settings_and_the_job_is_their_default() -> None:
    planned = plan(
        "pipeline_stage",
        {
            "basePrompt": "base",
            "negative_prompt": "rain",
            "aspect-ratio": "1:1",
            "stages": [
                {"stage_index": 0, "quantity": 2},
                {
                    "stage_index": 1,
                    "quantity": 2,
                    "prompt": "own",
                    "negative_prompt": "snow",
                    "aspect-ratio": "3:4",
                    "cameraAngle": " Low  Angle",
                    "shotType": "ECU",
                    "isPreEdited": True,
                    "mergedImageAttachId": 55.0,
                },
            ],
        },
        path="cinema",
    )
    plain, own = planned.units
    assert (plain.prompt, plain.negative_prompt, plain.aspect_ratio) == ("base", "rain", "1:1")
    assert (plain.angle, plain.shot, plain.pre_edited, plain.references) == ("", "", False, ())
    assert (own.prompt, own.negative_prompt, own.aspect_ratio) == ("own", "snow", "3:4")
    assert (own.angle, own.shot, own.pre_edited) == ("Low Angle", "ECU", True)
    assert own.references == (Reference(attach_id=55, type="top"),)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("fashion", "top"), ("beauty", "product"), ("eats", "product"), ("cinema", "top"), ("cartoon", "prop")],
)
def test_the_older_merged_picture_plays_the_category_s_clothing_or_product(path: str, kind: str) -> None:
    unit = only("pipeline_stage", {"stages": [{"stage_index": 0, "mergedImageAttachId": "9"}]}, path=path)
    assert unit.references == (Reference(attach_id=9, type=kind),)


def test_a_pipeline_without_stages_is_one_stage() -> None:
    unit = only("pipeline_stage", {"basePrompt": "base", "stages": []}, 3)
    assert (unit.key, unit.prompt, unit.quantity, unit.stage_index) == ("stage0", "base", 3, 0)


def test_a_general_job_uses_every_upload() -> None:
    planned = plan(
        "simple_general",
        {
            "prompt": "a picnic",
            "uploadedAttachIds": [{"attachId": 1, "type": "model"}, {"attachId": 2, "type": "image"}, {"attachId": 3}],
        },
    )
    (unit,) = planned.units
    assert (unit.key, unit.prompt, unit.quantity) == ("general", "a picnic", 4)
    assert [(ref.attach_id, ref.type) for ref in unit.references] == [(1, "model"), (2, "none"), (3, "none")]
    assert 'type "image" of picture 2 is unknown' in repairs(planned)["uploadedAttachIds"]


def test_a_portrait_job_makes_one_picture_per_entry() -> None:
    planned = plan(
        "simple_portrait",
        {
            "basePrompt": "base",
            "mergedImages": [
                {"mergedAttachId": 11, "wrappingPrompt": "one", "photoIndex": 0},
                {"mergedAttachId": "12", "photoIndex": 1},
            ],
        },
        total=2,
    )
    assert [(unit.key, unit.prompt, unit.quantity) for unit in planned.units] == [
        ("portrait0", "one", 1),
        ("portrait1", "base", 1),
    ]
    assert [unit.references for unit in planned.units] == [
        (Reference(attach_id=11, type="model"),),
        (Reference(attach_id=12, type="model"),),
    ]


def test_a_portrait_that_cannot_be_read_is_left_out() -> None:
    planned = plan(
        "simple_portrait", {"mergedImages": [None, {"mergedAttachId": "x"}, "junk", {"mergedAttachId": 5}]}, 1
    )
    assert [unit.key for unit in planned.units] == ["portrait3"]
    assert set(repairs(planned)) == {"mergedImages[0]", "mergedImages[1].mergedAttachId", "mergedImages[2]"}


@pytest.mark.parametrize("data", [{}, {"mergedImages": []}, {"mergedImages": [{"mergedAttachId": None}]}])
def test_a_portrait_job_without_a_portrait_is_refused(data: Any) -> None:
    assert refused("simple_portrait", data) == "mergedImages: no entry with a readable mergedAttachId"


# --- how many pictures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "total", "expected"),
    [
        ((2, 2), 4, [2, 2]),
        ((3, None, None), 8, [3, 3, 2]),
        ((None, None), 5, [3, 2]),
        ((None, 3), 4, [1, 3]),
        ((2, 2, 2), 3, [2, 1]),
        ((2, 2), 9, [2, 7]),
        ((5, None), 5, [5]),
        ((5, None), 3, [3]),
        ((None, None, None), 2, [1, 1]),
        ((2, 3), 0, [2, 3]),
        ((2, None, 3), -1, [2, 3]),
    ],
)
def test_how_many_pictures(given: tuple[Any, ...], total: int, expected: list[int]) -> None:
    assert quantities(stages(*given), total) == expected


@pytest.mark.parametrize("unusable", ["two", 0, -3, 1.5, True, [], {}, float("nan"), float("inf"), "", "1e3"])
def test_an_unusable_quantity_counts_as_not_given(unusable: Any) -> None:
    planned = plan("pipeline_stage", stages(3, unusable), 5)
    assert [unit.quantity for unit in planned.units] == [3, 2]
    problems = [repair.problem for repair in planned.repairs if repair.path == "stages[1].quantity"]
    assert "read as not given" in problems[0]
    assert problems[1] == "not given; planned 2 of the job's 5"


@pytest.mark.parametrize("spelled", [2, 2.0, "2", " 2 ", "2.0", "+2"])
def test_a_quantity_of_a_neighbouring_type_is_read(spelled: Any) -> None:
    assert quantities(stages(spelled, 3), 5) == [2, 3]


def test_every_difference_is_a_repair() -> None:
    planned = plan("pipeline_stage", stages(2, 3, 1), 3)
    assert repairs(planned) == {
        "stages[1].quantity": "3 asked for; planned 1 of the job's 3",
        "stages[2].quantity": "1 asked for; left out, nothing of the job's total is left for it",
    }
    assert repairs(plan("pipeline_stage", stages(2), 3)) == {
        "stages[0].quantity": "2 asked for; planned 3 of the job's 3"
    }
    assert repairs(plan("pipeline_stage", stages(2, 1), 0)) == {
        "total_images": "0 is not positive; the given quantities add up to 3"
    }


@pytest.mark.parametrize("job_type", ["single_batch", "pipeline_stage", "simple_general"])
def test_no_total_and_no_quantity_is_refused(job_type: str) -> None:
    assert refused(job_type, {}, 0) == "total_images: 0 is not positive and no quantity is given"


def test_portraits_without_a_total_make_one_each() -> None:
    assert quantities({"mergedImages": [{"mergedAttachId": 1}, {"mergedAttachId": 2}]}, 0, "simple_portrait") == [1, 1]


# --- stage order and keys ----------------------------------------------------------------------------


def staged(*indices: Any) -> Plan:
    rows = [{"stage_index": index, "prompt": f"p{i}", "quantity": 1} for i, index in enumerate(indices)]
    return plan("pipeline_stage", {"stages": rows}, len(rows))


def order(planned: Plan) -> list[tuple[str, str, int | None]]:
    return [(unit.key, unit.prompt, unit.stage_index) for unit in planned.units]


def test_stages_are_sorted_by_their_index() -> None:
    assert order(staged(7, "2", 4.0)) == [("stage2", "p1", 2), ("stage4", "p2", 4), ("stage7", "p0", 7)]


def test_repeated_stage_indices_keep_their_order_and_are_keyed_by_place() -> None:
    assert order(staged(1, 0, 1)) == [("stage0", "p1", 0), ("stage1", "p0", 1), ("stage2", "p2", 1)]


@pytest.mark.parametrize("odd", [-1, 10**6])
def test_an_index_that_makes_no_good_key_still_orders(odd: int) -> None:
    planned = staged(odd, 5)
    assert [unit.key for unit in planned.units] == ["stage0", "stage1"]
    assert sorted([odd, 5]) == [unit.stage_index for unit in planned.units]


def test_a_huge_stage_index_is_cut_to_what_a_column_can_hold() -> None:
    planned = staged(10**25, 5)
    assert [unit.stage_index for unit in planned.units] == [5, 2**31 - 1]
    assert "beyond what can be stored" in repairs(planned)["stages[0].stage_index"]


@pytest.mark.parametrize("unusable", [None, "x", 0.5, True, [], float("inf")])
def test_an_unusable_stage_index_is_the_place_in_the_list(unusable: Any) -> None:
    planned = staged(0, unusable, 2)
    assert order(planned) == [("stage0", "p0", 0), ("stage1", "p1", 1), ("stage2", "p2", 2)]
    assert "read as 1, its place in the list" in repairs(planned)["stages[1].stage_index"]


def test_units_are_numbered_without_gaps_when_one_gets_nothing() -> None:
    planned = plan("pipeline_stage", stages(1, None, 2), 3)
    assert [(unit.index, unit.key, unit.quantity) for unit in planned.units] == [(0, "stage0", 1), (1, "stage2", 2)]


# --- references --------------------------------------------------------------------------------------


def references(value: Any) -> list[tuple[int, str]]:
    unit = only("single_batch", {"individualImageAttachIds": value})
    return [(ref.attach_id, ref.type) for ref in unit.references]


def test_references_are_read_from_neighbouring_types() -> None:
    assert references(
        [
            {"attachId": 39070.0, "type": " Model "},
            {"attachId": "39071", "type": None},
            {"attachId": "39072.0"},
            39073,
            "39074",
            {"attachId": 39075, "type": 3},
            '{"attachId": 39076, "type": "top"}',
        ]
    ) == [
        (39070, "model"),
        (39071, "none"),
        (39072, "none"),
        (39073, "none"),
        (39074, "none"),
        (39075, "3"),
        (39076, "top"),
    ]


def test_garbage_between_references_is_left_out_and_logged() -> None:
    planned = plan(
        "single_batch",
        {
            "individualImageAttachIds": [
                None,
                "junk",
                [],
                {},
                True,
                {"attachId": 1.5},
                {"attachId": -4},
                {"attachId": 5},
            ]
        },
    )
    assert planned.units[0].references == (Reference(attach_id=5, type="none"),)
    assert set(repairs(planned)) == {
        *(f"individualImageAttachIds[{i}]" for i in (0, 1, 2, 4)),
        *(f"individualImageAttachIds[{i}].attachId" for i in (3, 5, 6)),
    }


def test_a_reference_named_twice_is_kept_once() -> None:
    assert references([{"attachId": 5, "type": "top"}, {"attachId": 5.0, "type": "Top"}]) == [(5, "top")]
    assert references([{"attachId": 5, "type": "top"}, {"attachId": 5, "type": "bag"}]) == [(5, "top"), (5, "bag")]


def test_lists_written_as_objects_or_text_are_read() -> None:
    assert references({"1": {"attachId": 6}, "0": {"attachId": 5}}) == [(5, "none"), (6, "none")]
    assert references({"attachId": 5, "type": "bag"}) == [(5, "bag")]
    assert references('[{"attachId": 5}]') == [(5, "none")]
    assert references({}) == references("") == references(None) == []


def test_references_that_are_empty_slots_are_no_references() -> None:
    assert references([{"attachId": None, "type": "model"}, {"type": "top"}]) == []


@pytest.mark.parametrize("value", [["junk"], [{"attachId": "abc"}], [{"attachId": 2**63}], [{"attachId": 0}]])
def test_a_unit_is_not_made_from_nothing_when_none_of_its_references_can_be_read(value: Any) -> None:
    message = refused("pipeline_stage", {"stages": [{}, {"individualImageAttachIds": value}]})
    assert message.startswith("stages[1].individualImageAttachIds: names pictures")


# --- scalars -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "ratio"),
    [
        ({"aspect-ratio": "9:16"}, "9:16"),
        ({"aspectRatio": "1:1"}, "1:1"),
        ({"aspect-ratio": "4:3", "aspectRatio": "1:1"}, "4:3"),
        ({"aspect-ratio": None, "aspectRatio": "3:4"}, "3:4"),
        ({"aspect-ratio": " 21 : 9 "}, "21:9"),
        ({"aspect-ratio": "4x3"}, "4:3"),
        ({}, "16:9"),
        ({"aspect-ratio": "7:1"}, "16:9"),
        ({"aspect-ratio": 1.5}, "16:9"),
        ({"aspect-ratio": ["1:1"]}, "16:9"),
    ],
)
def test_aspect_ratio(data: Any, ratio: str) -> None:
    assert only("single_batch", data).aspect_ratio == ratio


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (True, True),
        ("true", True),
        (1, True),
        (1.0, True),
        ("TRUE", True),
        ("1", True),
        (False, False),
        ("false", False),
        (0, False),
        (None, False),
        ("maybe", False),
        ([], False),
        ({"a": 1}, False),
        (float("nan"), False),
    ],
)
def test_is_pre_edited(value: Any, answer: bool) -> None:
    assert only("pipeline_stage", {"stages": [{"isPreEdited": value}]}, path="eats").pre_edited is answer


@pytest.mark.parametrize("value", ["not-a-uuid", 5, True, [], {}, "../../x", ""])
def test_a_user_id_that_is_no_uuid_is_ignored(value: Any) -> None:
    planned = plan("single_batch", {"userId": value})
    assert "not a UUID" in repairs(planned)["userId"]


def test_texts_are_made_storable() -> None:
    planned = plan("single_batch", {"basePrompt": " a\x00b\ud800c\ud83d\ude00 \n d ", "negative_prompt": "\x00"})
    (unit,) = planned.units
    assert unit.prompt == "ab\ufffdc😀 \n d"
    assert unit.negative_prompt == ""
    assert "cannot be stored" in repairs(planned)["basePrompt"]


def test_words_that_javascript_leaves_behind_mean_nothing() -> None:
    unit = only("single_batch", {"combinations": [{"angle": "undefined", "shot": "null", "fx": "undefined"}]})
    assert (unit.angle, unit.shot, unit.fx) == ("front", "full", "none")


def test_none_is_a_proper_type_and_effect() -> None:
    planned = plan(
        "single_batch",
        {
            "individualImageAttachIds": [{"attachId": 5, "type": "none"}],
            "combinations": [{"angle": "side", "shot": "full", "quantity": 4, "fx": "none"}],
        },
    )
    assert planned.units[0].references == (Reference(attach_id=5, type="none"),)
    assert planned.units[0].fx == "none"
    assert planned.repairs == ()


def test_a_number_is_a_text_but_an_object_is_none() -> None:
    assert only("single_batch", {"basePrompt": 1984}).prompt == "1984"
    assert refused("single_batch", {"basePrompt": {"text": "x"}}) == "basePrompt: an object is not a text"
    message = refused("pipeline_stage", {"stages": [{"prompt": "a"}, {"prompt": ["b"]}]})
    assert message == "stages[1].prompt: a list of 1 is not a text"


# --- documents, types, paths -------------------------------------------------------------------------


def test_a_document_that_is_json_text_is_read() -> None:
    text = json.dumps({"basePrompt": "x"})
    assert only("single_batch", text).prompt == "x"
    assert only("single_batch", json.dumps(text)).prompt == "x"


@pytest.mark.parametrize("data", [None, [], [{}], 5, True, "", "junk", "[1]", "null", "[" * 100_000])
def test_a_document_that_is_no_object_is_refused(data: Any) -> None:
    assert re.fullmatch(r"job_input_data: .+ is not an object", refused("single_batch", data))


@pytest.mark.parametrize(
    "name", ["stages", "combinations", "individualImageAttachIds", "uploadedAttachIds", "mergedImages"]
)
@pytest.mark.parametrize("junk", [5, "junk", True, {"a": 1}, 1.5])
def test_a_list_that_is_none_is_refused(name: str, junk: Any) -> None:
    job_type = {
        "stages": "pipeline_stage",
        "uploadedAttachIds": "simple_general",
        "mergedImages": "simple_portrait",
    }.get(name, "single_batch")
    assert refused(job_type, {name: junk}).startswith(f"{name}: ")


def test_garbage_items_are_left_out_unless_nothing_else_is_there() -> None:
    planned = plan("single_batch", {"combinations": ["junk", 5, {"angle": "side"}]})
    assert [unit.key for unit in planned.units] == ["combo2_side_full"]
    assert refused("single_batch", {"combinations": ["junk", 5]}) == "combinations: not one of its items is an object"


def test_an_unknown_job_type_is_a_batch() -> None:
    planned = plan("mystery", {"basePrompt": "x"})
    assert planned.job_type is JobType.SINGLE_BATCH
    assert repairs(planned)["job_type"] == '"mystery" is unknown; read as single_batch'


@pytest.mark.parametrize("path", [None, "", "opera"])
def test_an_unknown_path_is_fashion(path: str | None) -> None:
    planned = plan("single_batch", {}, path=path)
    assert planned.category is Category.FASHION
    assert "read as fashion" in repairs(planned)["quel_production_path"]


# --- limits ------------------------------------------------------------------------------------------


def test_limits_are_refused_by_name() -> None:
    small = Limits(max_images=10, max_units=3, max_prompt_length=20, max_references_per_unit=2)

    def says(job_type: str, data: Any, total: int = 4) -> str:
        return refused(job_type, data, total, small)

    assert says("single_batch", {}, 11) == "total_images: 11 pictures; at most 10 are allowed"
    assert says("pipeline_stage", stages(1, 11)) == "stages[1].quantity: 11 pictures; at most 10 are allowed"
    assert says("pipeline_stage", stages(9, 9), 0).startswith(
        "total_images: not positive, and the quantities add up to 18"
    )
    assert says("pipeline_stage", stages(1, 1, 1, 1)) == "stages: 4 items; at most 3 are allowed"
    assert says("single_batch", {"combinations": [{}] * 10_000}) == "combinations: 10000 items; at most 3 are allowed"
    assert says("simple_portrait", {"mergedImages": [{}] * 4}) == "mergedImages: 4 items; at most 3 are allowed"
    assert says("single_batch", {"basePrompt": "x" * 21}) == "basePrompt: 21 characters; at most 20 are allowed"
    assert says("single_batch", {"negative_prompt": "x" * 21}).startswith("negative_prompt: ")
    assert says("pipeline_stage", {"stages": [{"prompt": "x" * 21}]}).startswith("stages[0].prompt: ")
    assert says("single_batch", {"individualImageAttachIds": [1, 2, 3]}).startswith("individualImageAttachIds: 3 items")


def test_the_limit_itself_is_allowed() -> None:
    small = Limits(max_images=2, max_units=2, max_prompt_length=3, max_references_per_unit=2)
    data = {"basePrompt": "xyz", "individualImageAttachIds": [1, 2], "combinations": [{"quantity": 2}, {}]}
    assert plan("single_batch", data, 2, limits=small).total == 2


@pytest.mark.parametrize("huge", [10**9, 10**25, "9" * 29])
def test_a_huge_quantity_is_refused(huge: Any) -> None:
    assert refused("pipeline_stage", stages(1, huge)).startswith("stages[1].quantity: ")


def test_an_overlong_camera_is_cut() -> None:
    unit = only("single_batch", {"combinations": [{"angle": "x" * 5_000}]})
    assert unit.angle == "x" * 100
    assert len(unit.key) < 70
