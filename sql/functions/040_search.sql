-- What searches need beside plain SQL.

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
-- What has some ten thousand states is read and then needs more memory than there may be: that is an internal error.
EXCEPTION WHEN invalid_regular_expression OR internal_error OR out_of_memory OR program_limit_exceeded OR statement_too_complex THEN
    RETURN false;
END $$;
COMMENT ON FUNCTION is_pattern(text) IS 'Whether a text is a regular expression that PostgreSQL understands and can use.';
