"""Faults of JSON texts, for every format that holds one."""

DEEP = 100_000

BROKEN: dict[str, bytes] = {
    "not-json": b"hello, I am a model",
    "empty": b"",
    "only-blanks": b" \n" * 1000,
    "not-utf8": b'{"class_name": "\xff\xfe"}',
    "utf16": '{"class_name": "Dense"}'.encode("utf-16"),
    "cut-short": b'{"class_name": "Sequential", "config": {"name": "seq',
    "nul-bytes": b"\0" * 4096,
    "deep-lists": b"[" * DEEP + b"]" * DEEP,
    "deep-lists-unclosed": b"[" * DEEP,
    "deep-objects": b'{"config":' * DEEP + b"1" + b"}" * DEEP,
    "list-at-the-top": b'[{"class_name": "Dense"}]',
    "text-at-the-top": b'"Sequential"',
    "number-at-the-top": b"1e400",
    "nan-at-the-top": b"NaN",
    "null-at-the-top": b"null",
    "number-of-a-million-digits": b'{"class_name": ' + b"9" * 1_000_000 + b"}",
    "bare-number-of-a-million-digits": b"9" * 1_000_000,
    "key-twice": b'{"class_name": "A", "class_name": "Sequential", "config": {}}',
    "python": b"__import__('os').system('touch executed')",
    "pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "half-a-megabyte-of-keys": b"{" + b",".join(b'"%d": "%d"' % (i % 7, i) for i in range(30_000)) + b"}",
}
"""Texts that no reader of a configuration, an index or a header may take."""
