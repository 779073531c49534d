-- The role of analysts: reads the views for analysts and nothing else, under limits. Applied by
-- `chatpulse migrate` where ClickHouse lets its user make roles. {bi} is the database of the views,
-- {reader} the name of role and profile: that of the database with _reader behind it.
--
-- IF NOT EXISTS, so that what an operator changes stays changed.

-- readonly = 2: a reader may change settings, as most BI tools do with each connection, but not
-- readonly itself, and the limits only within their bounds. 0 would be no limit.
CREATE SETTINGS PROFILE IF NOT EXISTS {reader} SETTINGS
    readonly = 2,
    allow_ddl = 0 CONST,
    max_execution_time = 60 MIN 1 MAX 300,
    timeout_overflow_mode = 'throw' CONST,
    max_memory_usage = 4000000000 MIN 1 MAX 4000000000,
    max_memory_usage_for_user = 8000000000 MIN 1 MAX 8000000000,
    max_concurrent_queries_for_user = 20 MIN 1 MAX 20,
    max_result_rows = 1000000 MIN 1 MAX 1000000,
    max_result_bytes = 1000000000 MIN 1 MAX 1000000000,
    result_overflow_mode = 'throw' CONST,
    max_bytes_to_read = 200000000000 MIN 1 MAX 200000000000,
    read_overflow_mode = 'throw' CONST;

CREATE ROLE IF NOT EXISTS {reader} SETTINGS PROFILE {reader};

GRANT SELECT ON {bi}.* TO {reader};
