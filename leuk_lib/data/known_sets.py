"""The published data sets that have a name here; ``unconfirmed`` marks facts that no provider's page confirmed.

Sources: the providers' pages and repositories as far as they could be read (MedMNIST/MedMNIST ``info.py``,
Shenggan/BCCD_Dataset, zxaoyou/segmentation_WBC, apple2373/wbcatt, marrlab/MLL23, and
intelligentMachines-ITU/Blood-Cancer-Dataset-Lukemia-Attri-MICCAI-2024), else descriptions by people who used the set.
"""

from __future__ import annotations

from dataclasses import replace

from leuk_lib.data.known_set import Download, KnownSet, Option

WBC_TYPES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
PBC_TYPES = (*WBC_TYPES[:2], "erythroblast", "immature_granulocyte", *WBC_TYPES[2:], "platelet")
LEUKEMIAS = ("CML", "CLL", "AML", "ALL")
_SPELLED_OUT = {
    "CML": ("chronic myeloid leukemia", "chronic myelogenous leukemia", "chronic myeloid leukaemia"),
    "CLL": ("chronic lymphocytic leukemia", "chronic lymphocytic leukaemia"),
    "AML": ("acute myeloid leukemia", "acute myelogenous leukemia", "acute myeloid leukaemia"),
    "ALL": ("acute lymphoblastic leukemia", "acute lymphocytic leukemia", "acute lymphoblastic leukaemia"),
}

_RAABIN = (
    "Kouzehkanan ZM et al. A large dataset of white blood cells containing cell locations and types. "
    "Scientific Reports 12:1123, 2022. doi:10.1038/s41598-021-04426-x"
)
_ACEVEDO = (
    "Acevedo A, Merino A, Alferez S, Molina A, Boldu L, Rodellar J. A dataset of microscopic peripheral blood cell "
    "images for development of automatic recognition systems. Data in Brief 30:105474, 2020. "
    "doi:10.1016/j.dib.2020.105474"
)
_NO_PATIENTS = "anything about new patients: no patient numbers are published, so a score is an upper bound"
_PBC_LIMITS = (_NO_PATIENTS, "leukemia: the cells come from people without a disease of the blood")
_PBC_ZIP = Download(
    "https://data.mendeley.com/public-files/datasets/snkd93bnjr/files/"
    "2fc38728-2ae7-4a62-a857-032af82334c3/file_downloaded",
    "pbc.zip",
)


def _bloodmnist(size: int, md5: str) -> KnownSet:
    suffix = "" if size == 28 else f"_{size}"
    file = f"bloodmnist{suffix}.npz"
    return KnownSet(
        name=f"bloodmnist{suffix.replace('_', '-')}",
        title=f"BloodMNIST of MedMNIST+, the PBC images at {size} x {size} pixels",
        classes=PBC_TYPES,
        licence="CC BY 4.0",
        source="Zenodo record 10519652 (MedMNIST, version 3.0)",
        access="open",
        cite="Yang J et al. MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image "
        f"classification. Scientific Data 10:41, 2023. doi:10.1038/s41597-022-01721-8. {_ACEVEDO}",
        images=17_092,
        answers=(
            "how our accuracy and AUC compare with published ones, on the official split "
            "(11,959 training, 1,712 validation, 3,421 test images)",
        ),
        limits=_PBC_LIMITS,
        traps=(
            "images of one patient may be in both training and test",
            "each image is the centre of 200 x 200 pixels, resized; all sizes share split and order",
        ),
        reader="medmnist",
        split="published",
        downloads=(Download(f"https://zenodo.org/records/10519652/files/{file}", file, md5=md5, layout="file"),),
    )


_MLL23_TYPES = (
    "basophil", "eosinophil", "hairy_cell", "lymphocyte", "lymphocyte_large_granular", "lymphocyte_neoplastic",
    "lymphocyte_reactive", "metamyelocyte", "monocyte", "myeloblast", "myelocyte", "neutrophil_band",
    "neutrophil_segmented", "normoblast", "plasma_cell", "promyelocyte", "promyelocyte_atypical", "smudge_cell",
)  # fmt: skip
_LMU_TYPES = {
    "basophil": "BAS", "erythroblast": "EBO", "eosinophil": "EOS", "smudge_cell": "KSC", "lymphocyte_atypical": "LYA",
    "lymphocyte_typical": "LYT", "metamyelocyte": "MMZ", "monoblast": "MOB", "monocyte": "MON", "myelocyte": "MYB",
    "myeloblast": "MYO", "neutrophil_band": "NGB", "neutrophil_segmented": "NGS", "promyelocyte_bilobed": "PMB",
    "promyelocyte": "PMO",
}  # fmt: skip
_ATTRI_SUBSETS = (
    "H_100X_C1", "H_100X_C2", "H_40X_C1", "H_40X_C2", "H_10X_C1", "H_10X_C2",
    "L_100X_C1", "L_100X_C2", "L_40X_C1", "L_40X_C2", "L_10X_C2",
)  # fmt: skip

KNOWN: tuple[KnownSet, ...] = (
    KnownSet(
        name="raabin-leukemia",
        title="Raabin leukemia images (the paper's)",
        classes=LEUKEMIAS,
        aliases=_SPELLED_OUT,
        licence="none stated",
        source="the Raabin data project, raabindata.com",
        access="ask the providers through the project's site",
        cite=_RAABIN,
        unconfirmed=("images", "patients", "layout"),
        answers=("the paper's claims about four leukemias",),
        limits=("anything about new patients, unless you receive patient or slide numbers with the images",),
        traps=("folders may hold subtypes, such as ALL/L1 (not confirmed); they are read as their disease",),
    ),
    KnownSet(
        name="raabin-wbc",
        title="Raabin-WBC, double-labelled cropped cells",
        classes=WBC_TYPES,
        tests=("TestA", "TestB"),
        licence="none stated",
        source="the Raabin data project, raabindata.com, free data",
        access="open; two of the three archives are RAR",
        cite=_RAABIN,
        images=14_514,
        unconfirmed=("images",),
        answers=(
            "whether a model holds on another microscope: it is trained on Train, and tested on TestA (the same "
            "microscope) and TestB (another one)",
        ),
        limits=(_NO_PATIENTS, "leukemia: the cells are normal types"),
        traps=(
            "TestB holds neutrophils and lymphocytes only (not confirmed)",
            "10,175 images in Train and 4,339 in TestA; the number in TestB is not known",
        ),
        downloads=tuple(
            Download(
                f"http://dl.raabindata.com/WBC/Cropped_double_labeled/{file}",
                f"raabin-wbc-{file}",
                layout=f"into:{file.partition('.')[0]}",
            )
            for file in ("Train.rar", "TestA.rar", "TestB.zip")
        ),
    ),
    KnownSet(
        name="leukemia-attri",
        title="LeukemiaAttri, boxed cells of leukemia patients, two microscopes",
        classes=("ALL", "AML", "APML", "CLL", "CML"),
        licence="CC BY-NC-SA 4.0",
        source="Google Drive folder named in GitHub "
        "intelligentMachines-ITU/Blood-Cancer-Dataset-Lukemia-Attri-MICCAI-2024",
        access="open, by hand from drive.google.com/drive/folders/1J5ld-tK6cewj9wXWUi3rs6UdlHnDBe8U",
        cite="Rehman A, Meraj T, Minhas AM, Imran A, Ali M, Sultani W. A large-scale multi domain leukemia dataset for "
        "the white blood cells detection with morphological attributes for explainability. MICCAI 2024. "
        "arXiv:2405.10803",
        images=10_300,
        patients=47,
        unconfirmed=("licence", "images", "patients", "layout"),
        answers=(
            "the paper's question on other cells: CML, CLL, AML or ALL",
            "which of 13 cell types a cell has (task cell-type)",
            "whether a model holds on another microscope, camera or magnification (subset)",
        ),
        limits=(
            "anything about new patients with CLL or APML: each has one patient in training and one in test "
            "(not confirmed), so effects of patient and disease cannot be distinguished",
            "the paper's own claims: the cells are others",
        ),
        traps=(
            "the diagnosis is stated only in the file name, SLIDE_IMAGE_MAGNIFICATION_DIAGNOSIS.png; it is the patient's, "
            "so normal cells carry it too",
            "the subsets photograph the same cells again, and a patient may be in the training part of one and in the "
            "test part of another: one run reads one subset",
            "fields of 640 x 640 pixels are squeezed: to 0.56 of their width as measured on the red cells of the sample, to "
            "0.60 according to descriptions (not confirmed); cells are widened again (option aspect)",
            "repeated image entries, one box under two categories, and one cell in two overlapping fields are findings",
            "boxes of the category none are left out",
        ),
        reader="leukemia-attri",
        options={
            "task": Option(("diagnosis", "cell-type"), "what a cell's class is"),
            "subset": Option(
                _ATTRI_SUBSETS, "microscope (H costly, L cheap), magnification and camera; one of them is read"
            ),
        },
        class_map={"APML": "AML"},
        split="published",
    ),
    KnownSet(
        name="cnmc",
        title="C-NMC 2019, B-lymphoblasts and normal B-lymphoid precursors",
        classes=("ALL", "normal"),
        aliases={"normal": ("hem",)},
        pattern="cnmc",
        licence="CC BY 3.0",
        source="The Cancer Imaging Archive, doi:10.7937/tcia.2019.dc64i46r",
        access="open, by hand from the archive's page",
        cite="Gupta A, Gupta R. ALL Challenge dataset of ISBI 2019 (C-NMC 2019). The Cancer Imaging Archive, 2019. "
        "doi:10.7937/tcia.2019.dc64i46r",
        images=15_135,
        patients=118,
        unconfirmed=("licence",),
        answers=(
            "leukemic or normal precursor, for new patients: the subject is stated in the file names "
            "(UID_SUBJECT_IMAGE_CELL_all.bmp)",
        ),
        limits=("the four leukemias: ALL only",),
        traps=(
            "fold_0, fold_1 and fold_2 are folds, not classes",
            "10,661 training images and 1,867 of phase 2 are labelled; the labels of the final test are not published",
            "phase 2 has its labels and subjects in a table (1 = ALL), not in folders",
            "cells are cut out on black and their stain is normalised: they cannot be pooled with other sets",
        ),
    ),
    KnownSet(
        name="aml-lmu",
        title="AML-Cytomorphology_LMU, cells of AML patients and controls",
        classes=tuple(_LMU_TYPES),
        aliases={name: (code,) for name, code in _LMU_TYPES.items()},
        licence="CC BY 3.0",
        source="The Cancer Imaging Archive, doi:10.7937/tcia.2019.36f5o9ld",
        access="open, by hand from the archive's page",
        cite="Matek C, Schwarz S, Marr C, Spiekermann K. A single-cell morphological dataset of leukocytes from AML "
        "patients and non-malignant controls. The Cancer Imaging Archive, 2019. doi:10.7937/tcia.2019.36f5o9ld",
        images=18_365,
        unconfirmed=("licence",),
        answers=(
            "which of 15 types a cell has",
            "how far experts agree: annotations.dat has two further labels of some cells",
        ),
        limits=(
            "anything about new patients: 100 patients and 100 controls, but no file says whose cell an image shows",
            "the diagnosis: the label is the cell's type",
        ),
        traps=("some types have fewer than 20 cells",),
    ),
    KnownSet(
        name="aml-mll",
        title="AML-Cytomorphology_MLL_Helmholtz, four genetic AML types and controls",
        classes=("control", "CBFB_MYH11", "NPM1", "PML_RARA", "RUNX1_RUNX1T1"),
        aliases={"PML_RARA": ("APL",)},
        licence="not known",
        source="The Cancer Imaging Archive, doi:10.7937/6ppe-4020",
        access="open, by hand from the archive's page",
        cite="Hehr M, Sadafi A, Matek C, Lienemann P, Pohlkamp C, Haferlach T, Spiekermann K, Marr C. A morphological "
        "dataset of white blood cells from patients with four different genetic AML entities and non-malignant controls "
        "(AML-Cytomorphology_MLL_Helmholtz). The Cancer Imaging Archive, 2023. doi:10.7937/6ppe-4020",
        images=81_214,
        patients=189,
        unconfirmed=("licence", "layout"),
        answers=("genetic type of AML, for new patients: folders name the patient",),
        limits=("the four leukemias: AML and controls only", "the type of a single cell: the label is the patient's"),
        traps=("cells of a patient carry the patient's label, also where they are normal",),
        patients_below=True,
    ),
    KnownSet(
        name="mll23",
        title="MLL23, expert-labelled cells of the Munich Leukemia Laboratory",
        classes=_MLL23_TYPES,
        licence="CC BY 4.0",
        source="Zenodo record 14277609",
        access="open",
        cite="Shetab Boushehri S et al. A large expert-annotated single-cell peripheral blood dataset for hematological "
        "disease diagnostics. Scientific Data 12:1773, 2025. doi:10.1038/s41597-025-06223-x",
        images=41_621,
        unconfirmed=("licence", "address"),
        answers=("which of 18 types a cell has",),
        limits=(_NO_PATIENTS, "the diagnosis: the label is the cell's type"),
        traps=(
            "about 8 GB in 18 archives, one per class (the address of 13 of them follows the rule of the others and is "
            "not confirmed)",
            "another description by the authors counts 41,906 images",
        ),
        downloads=tuple(
            Download(
                f"https://zenodo.org/api/records/14277609/files/{name}.zip/content",
                f"mll23-{name}.zip",
                layout=f"class:{name}",
            )
            for name in _MLL23_TYPES
        ),
    ),
    KnownSet(
        name="caitomorph",
        title="cAItomorph test set, cells of patients with many blood diseases",
        classes=(
            "ALL",
            "AML",
            "B-cell neoplasm",
            "CML",
            "CMML",
            "MDS",
            "MPN",
            "multiple myeloma",
            "reactive",
            "stem-cell donor",
        ),
        licence="not known",
        source="Nefeli RDM of Helmholtz Munich, doi:10.82296/HMGU-NEFELI.9BV4E-3AG16",
        access="by hand from the repository's page",
        cite="Dasdelen MF et al. cAItomorph: peripheral blood smear image dataset for hematological malignancy "
        "prediction. Nefeli RDM, 2026. doi:10.82296/HMGU-NEFELI.9BV4E-3AG16",
        images=201_560,
        patients=409,
        unconfirmed=("licence", "classes", "layout"),
        answers=("the diagnosis of new patients, with a manifest.csv that names each patient's diagnosis",),
        limits=(
            "CLL: it is not distinguished from other B-cell neoplasms",
            "much about CML and ALL: 8 and 7 patients",
        ),
        traps=(
            "a folder is a patient, not a class: without a manifest.csv nothing is read",
            "its diagnoses are described as eight coarse ones, or as these and 19 rarer ones",
        ),
    ),
    KnownSet(
        name="bccd",
        title="BCCD, cells cut out of fields of view",
        classes=("Platelets", "RBC", "WBC"),
        licence="MIT",
        source="GitHub Shenggan/BCCD_Dataset, commit d272fb1 (originals by cosmicad and akshaylamba)",
        access="open",
        cite="Shenggan. BCCD Dataset, 2017. GitHub Shenggan/BCCD_Dataset",
        answers=("white cell, red cell or platelet",),
        limits=(_NO_PATIENTS, "types of white cells: a box says WBC only"),
        traps=(
            "boxes of one pixel in fields 00338 and 00343; boxes below 24 pixels are left out",
            "fields of one slide overlap; each field is one group, and near-duplicates are joined",
        ),
        downloads=(
            Download(
                "https://github.com/Shenggan/BCCD_Dataset/archive/d272fb14cdff6e473fafeeeba32aba5f560e9e43.zip",
                "bccd.zip",
                layout="voc_boxes",
            ),
        ),
    ),
    KnownSet(
        name="pbc",
        title="PBC, normal peripheral blood cells (Barcelona)",
        classes=PBC_TYPES,
        aliases={"immature_granulocyte": ("ig",)},
        licence="CC BY 4.0",
        source="Mendeley Data, doi:10.17632/snkd93bnjr.1",
        access="open",
        cite=_ACEVEDO,
        images=17_092,
        unconfirmed=("licence",),
        answers=("which of 8 types a normal cell has",),
        limits=_PBC_LIMITS,
        traps=(
            "file names hold finer types (BNE band, SNE segmented neutrophil; MMY, MY, PMY, IG immature granulocytes)",
        ),
        downloads=(_PBC_ZIP,),
    ),
    KnownSet(
        name="segmentation-wbc",
        title="segmentation_WBC, Dataset 1, with masks",
        classes=WBC_TYPES,
        licence="GPL-3.0; please acknowledge Jiangxi Tecom Science Corporation",
        source="GitHub zxaoyou/segmentation_WBC, commit fa9c016",
        access="open",
        cite="Zheng X, Wang Y, Wang G, Liu J. Fast and robust segmentation of white blood cell images by "
        "self-supervised learning. Micron 107:55-71, 2018. doi:10.1016/j.micron.2018.01.010",
        images=300,
        answers=("whether contrast and attention concentrate on the nucleus: experts drew masks",),
        limits=(_NO_PATIENTS, "how well basophils are recognised: there is one"),
        traps=(
            "two looks, with yellow background up to about number 200 and white after it",
            "scale and camera are not stated; labels are partly the authors', without an expert",
            "five cells occur twice",
        ),
        downloads=(
            Download(
                "https://github.com/zxaoyou/segmentation_WBC/archive/fa9c01622f52bccb9aeb8a6f2628f564e377767d.zip",
                "segmentation-wbc-fa9c016.zip",
                layout="segmentation_wbc",
            ),
        ),
    ),
    KnownSet(
        name="wbcatt",
        title="WBCAtt, a published split of PBC with 11 attributes per cell",
        classes=WBC_TYPES,
        licence="MIT (tables), CC BY 4.0 (images)",
        source="GitHub apple2373/wbcatt, commit ad255b8, and Mendeley Data, doi:10.17632/snkd93bnjr.1",
        access="open",
        cite="Tsutsui S, Pang W, Wen B. WBCAtt: a white blood cell dataset annotated with detailed morphological "
        f"attributes. NeurIPS 2023. arXiv:2306.13531. {_ACEVEDO}",
        images=10_298,
        unconfirmed=("licence",),
        answers=("which of 5 types a normal cell has, on the authors' split (6,169 + 1,030 + 3,099 images)",),
        limits=_PBC_LIMITS,
        traps=("it is a part of PBC: never use it as a test of a model trained on pbc",),
        reader="wbcatt",
        split="published",
        downloads=(
            replace(_PBC_ZIP, layout="into:PBC_dataset_normal_DIB"),
            Download(
                "https://github.com/apple2373/wbcatt/archive/ad255b80f6d56b9f72508b04466c3c4a2c95c97b.zip",
                "wbcatt-ad255b8.zip",
                layout="tables:pbc_attr_v1_",
            ),
        ),
    ),
    _bloodmnist(28, "7053d0359d879ad8a5505303e11de1dc"),
    _bloodmnist(64, "2b94928a2ae4916078ca51e05b6b800b"),
    _bloodmnist(128, "adace1e0ed228fccda1f39692059dd4c"),
    _bloodmnist(224, "b718ff6835fcbdb22ba9eacccd7b2601"),
)
