-- What a source lets be seen, said more finely: a metric of conversations needs what shows it, whole,
-- and of which conversation. Rows are written again at each start.
ALTER TABLE source_observes
    ADD COLUMN IF NOT EXISTS partly Array(String)
        COMMENT 'Flags that show only some of what happens',
    ADD COLUMN IF NOT EXISTS without_conversation Array(String)
        COMMENT 'Flags whose events do not say of which conversation they are',
    ADD COLUMN IF NOT EXISTS event_types Array(String)
        COMMENT 'Neutral types of the documented events';
