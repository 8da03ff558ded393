"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Output = Annotated[
    Path, typer.Option("-o", "--output", help="Where to write; the ending says the format.", show_default=False)
]
Seed = Annotated[int, typer.Option("--seed", help="Fixes every random choice.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Dtype of the result: float16, bfloat16, float32 or float64; by default each tensor keeps its own.",
        show_default=False,
    ),
]
AllowNonfinite = Annotated[
    bool, typer.Option("--allow-nonfinite", help="Merge although a source holds NaN or infinity.")
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="Format of the output, where its ending does not tell.", show_default=False),
]
Names = Annotated[
    str | None,
    typer.Option(
        "--names", help="What the models are called: a,b,c; by default their files' names.", show_default=False
    ),
]
DropCompile = Annotated[bool, typer.Option("--drop-compile", help="Leave out how the model was compiled.")]
ShardSize = Annotated[
    str | None, typer.Option("--shard-size", help="Greatest size of a shard: 500MB, 5GB.", show_default=False)
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads; by default one per processor.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
InputColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--x",
        help="The columns of the inputs, where the data does not tell: a,b in their order, or INPUT=a,b; repeat for more.",
        show_default=False,
    ),
]
LabelColumn = Annotated[
    str | None, typer.Option("--y", help="The column of the labels, where the data does not tell.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
