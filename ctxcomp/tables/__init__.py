"""Spreadsheets and tables: a sheet as short text, every address traceable (SheetCompressor).

`ctxcomp.tables.readers` reads files, `ctxcomp.tables.compress` makes a sheet small, `ctxcomp.tables.sheets` is the
method for passages.
"""
