octavo_isa(NAME scalar PRIORITY 0 SOURCES table.cpp)
