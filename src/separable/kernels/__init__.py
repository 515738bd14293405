"""Operators as machine code written from Python. In: shapes and an instruction set. Out: functions in memory."""
