-- Functions that searches use beside plain SQL.

CREATE OR REPLACE FUNCTION holds(leaves boolean[], program int[]) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    stack boolean[] := '{}';
    top int := 0;
    step int;
BEGIN
    FOREACH step IN ARRAY program LOOP
        IF step >= 0 THEN
            top := top + 1;
            stack[top] := leaves[step + 1];
        ELSE
            top := top - 1;
            stack[top] := CASE step WHEN -1 THEN stack[top] AND stack[top + 1] ELSE stack[top] OR stack[top + 1] END;
        END IF;
    END LOOP;
    RETURN stack[1];
END $$;
COMMENT ON FUNCTION holds(boolean[], int[]) IS 'Value of a boolean expression given in postfix: n >= 0 is leaf n, -1 is AND, -2 is OR. For queries too deep for the parser.';

CREATE OR REPLACE FUNCTION is_pattern(pattern text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    PERFORM '' ~* pattern;
    RETURN true;
-- PostgreSQL parses a pattern with some ten thousand states and may then run out of memory: an internal error.
EXCEPTION WHEN invalid_regular_expression OR internal_error OR out_of_memory OR program_limit_exceeded OR statement_too_complex THEN
    RETURN false;
END $$;
COMMENT ON FUNCTION is_pattern(text) IS 'Whether a text is a regular expression that PostgreSQL can parse and use.';

-- Walk by primary key: PostgreSQL takes longer to begin and end a recursive query than to run it.
CREATE OR REPLACE FUNCTION ancestors_of(parents bigint[]) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    walked bigint;
    above bigint;
    length int;
    own_tags text[];
    met int;
    fresh bigint[];
    -- The ids from the previous prefix up to the top.
    path bigint[];
    found_ones text := '';
BEGIN
    FOREACH walked IN ARRAY parents LOOP
        CONTINUE WHEN walked = path[1];
        fresh := NULL;
        met := NULL;
        WHILE walked IS NOT NULL LOOP
            met := array_position(path, walked);
            EXIT WHEN met IS NOT NULL;
            SELECT parent_id, masklen(prefix), tags INTO above, length, own_tags FROM prefix WHERE id = walked;
            found_ones := found_ones || CASE found_ones WHEN '' THEN '{"' ELSE ',"' END || walked || '":[' || coalesce(above::text, 'null') || ','
                || length || ',' || CASE own_tags WHEN '{}' THEN '[]' ELSE to_json(own_tags)::text END || ']';
            fresh := fresh || walked;
            walked := above;
        END LOOP;
        -- Prefixes come in tree order: every known ancestor of a later prefix is an ancestor of this prefix too.
        IF fresh IS NOT NULL THEN
            path := CASE WHEN met IS NULL THEN fresh ELSE fresh || path[met:] END;
        END IF;
    END LOOP;
    RETURN CASE WHEN found_ones <> '' THEN found_ones || '}' END;
END $$;
COMMENT ON FUNCTION ancestors_of(bigint[]) IS 'The prefixes with the given ids and all their ancestors, as {id: [parent, length, tags]}; NULL when there are none. Each prefix is read once if the ids are in tree order.';
