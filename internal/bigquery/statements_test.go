package bigquery_test

// moreStatements are the ways to say one thing and mean another: each line once
// hid a table or a change, or could. ␤ stands for a line feed, ␍ for a carriage
// return, ~ for a backtick.
const moreStatements = `
SELECT|read|s.t||SELECT 1 -- DELETE FROM x.y;␤FROM s.t
SELECT|read|s.t||SELECT 1 # ; DROP TABLE x.y␤FROM s.t
SELECT|read|s.t||SELECT 1 --␍␤FROM s.t
UNKNOWN|unknown|||SELECT 1 -- x␍; DELETE FROM s.t WHERE TRUE
UNKNOWN|unknown|||SELECT 1 # x␍; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|SELECT 1 /* x␍ */; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|SELECT 1; /* \u002a\u002f ' */ DELETE FROM s.t WHERE TRUE -- '
SCRIPT|write||s.t|SELECT 1; /* *\u002f ' */ DELETE FROM s.t WHERE TRUE -- '
SCRIPT|write||s.t|SELECT r'\u0027'; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|SELECT '\U00000027'; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|SELECT '\\'; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|SELECT '''x'; '''; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|SELECT r"""\"""" ; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|SELECT rb'\'', b"--", br"#"; DELETE FROM s.t WHERE TRUE
SELECT|read|s.t||SELECT '; DELETE FROM s.x' FROM s.t
SELECT|read|s.t||SELECT """a ' " ; DROP TABLE s.x""" FROM s.t
SELECT|read|s.t||SELECT ~; DELETE FROM s.x~ FROM s.t
SELECT|read|s.t||SELECT * FROM ~s.\u0074~
SELECT|read|s.t||sElEcT * fRoM s.t
SELECT|read|s.t||SELECT*FROM/**/s.t
SELECT|read|s.t||SELECT * FROM s . t
SELECT|read|s.t||;SELECT * FROM s.t;
SELECT|read|S.T s.t||SELECT * FROM S.T, s.t
SELECT|read|s.t||SELECT begin, ~end~, load, call, repeat FROM s.t
SELECT|read|s.t||SELECT t.begin FROM s.t WHERE t.delete = 1
SELECT|read|s.t||SELECT delete, update, merge.x FROM s.t
SELECT|read|s.t||SELECT * EXCEPT (a), b FROM s.t
SELECT|read|s.a s.b||SELECT * FROM s.a EXCEPT DISTINCT SELECT * FROM s.b
SELECT|read|s.a s.b||SELECT * FROM s.a AS values, s.b
SELECT|read|s.a s.b||SELECT * FROM s.a returning, s.b
SELECT|read|s.a s.b||SELECT * FROM s.a AS x UNPIVOT (v FOR k IN (p, q)), s.b
SELECT|read|s.a s.b||SELECT * FROM s.a WITH OFFSET, s.b
SELECT|read|s.b||SELECT * FROM UNNEST([1, 2]) AS x, s.b
SELECT|read|s.b||SELECT * FROM UNNEST((SELECT x FROM s.b)) AS x
SELECT|read|s.a s.b||SELECT * FROM s.a TABLESAMPLE SYSTEM (1 PERCENT), s.b
SELECT|read|s.a s.b||SELECT EXTRACT(YEAR FROM (SELECT MAX(d) FROM s.b)) FROM s.a
SELECT|read|s.a s.b||SELECT EXTRACT(DAYOFWEEK FROM d AT TIME ZONE 'x'), (SELECT 1 FROM s.b) FROM s.a
SELECT|read|s.a||SELECT (a IS NOT DISTINCT FROM (b)) FROM s.a
SELECT|read|s.a s.b||SELECT a IS DISTINCT FROM (SELECT b FROM s.b) FROM s.a
SELECT|read|s.a s.b||SELECT IF(EXISTS(SELECT 1 FROM s.b), 1, 2) FROM s.a
SELECT|read|s.a s.b||SELECT CASE WHEN (SELECT TRUE FROM s.b) THEN 1 END FROM s.a
SELECT|read|d.t||WITH t AS (SELECT * FROM t) SELECT * FROM t
SELECT|read|d.t||SELECT * FROM (WITH t AS (SELECT 1) SELECT * FROM t), t
SELECT|read|d.b||WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b
SELECT|read|||WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT x FROM a), b AS (SELECT * FROM a, b) SELECT * FROM b
SELECT|read|s.a||WITH ~t~ AS (SELECT * FROM s.a) SELECT * FROM T
SELECT|read|s.a d.x||WITH t AS (WITH x AS (SELECT * FROM s.a) SELECT * FROM x) SELECT * FROM t, x
SELECT|read|s.a s.t||WITH t AS (SELECT * FROM s.a) SELECT * FROM t JOIN s.t USING (id)
SELECT|read|s.a||WITH t AS (SELECT 1), u AS (SELECT * FROM s.a) (SELECT * FROM t) UNION ALL (SELECT * FROM u)
SELECT|read|s.a s.b||SELECT WITH(x AS (SELECT 1 FROM s.a), x) FROM s.b
SELECT|read|s.a hr.pay||SELECT * FROM s.a AS hr UNION ALL SELECT * FROM hr.pay
SELECT|read|s.a hr.pay||SELECT * FROM (SELECT 1 FROM s.a AS hr), hr.pay
SELECT|read|hr.pay s.a||SELECT * FROM hr.pay, s.a AS hr
SELECT|read|s.a hr.pay||SELECT * FROM s.a AS hr, (SELECT * FROM hr.pay)
SELECT|read|s.a hr.pay||SELECT * FROM s.a AS hr, ((SELECT 1) UNION ALL SELECT * FROM hr.pay)
SELECT|read|s.a hr.pay||WITH x AS (SELECT * FROM hr.pay) SELECT * FROM s.a AS hr, x
SELECT|read|s.a hr.pay||SELECT * FROM s.a AS hr, ~hr.pay~
SELECT|read|s.a||SELECT ARRAY(SELECT x FROM t.list) FROM s.a AS t
SELECT|read|s.a||SELECT (SELECT COUNT(*) FROM a.list WHERE EXISTS (SELECT 1 FROM a.other)) FROM s.a
SELECT|read|s.a s.b||SELECT * FROM (s.a AS x CROSS JOIN s.b), x.list
SELECT|read|s.a||SELECT * FROM s.a x, x.list y, y.inner z
SELECT|read|s.a||SELECT * FROM s.a LEFT JOIN a.list
SELECT|read|s.a s.b||SELECT * FROM s.a JOIN (SELECT * FROM s.b) USING (x)
SELECT|read|s.a s.b s.c||SELECT * FROM ((s.a JOIN s.b ON TRUE) JOIN s.c ON TRUE)
SELECT|read|s.a s.b||SELECT * FROM ((SELECT * FROM s.a) UNION ALL (SELECT * FROM s.b))
SELECT|read|my-project-1.s.t s.u||SELECT * FROM my-project-1.s.t, s.u
SELECT|read|a-b-c.s.t||SELECT * FROM a-b-c.s.t
SELECT|read|q.s.t||SELECT * FROM ~q.s~.t
SELECT|read|q.s.t||SELECT * FROM q.~s.t~
SELECT|read|s.a||SELECT x-y.z FROM s.a
SELECT|read|s.t_2026*||SELECT * FROM ~s.t_2026*~
SELECT|read|q.region-eu.INFORMATION_SCHEMA.JOBS_BY_PROJECT||SELECT * FROM ~q~.~region-eu~.INFORMATION_SCHEMA.JOBS_BY_PROJECT
SELECT|read|INFORMATION_SCHEMA.SCHEMATA||SELECT * FROM INFORMATION_SCHEMA.SCHEMATA
SELECT|read|s.m s.t||SELECT * FROM ML.PREDICT(MODEL s.m, TABLE s.t)
SELECT|read|s.m s.t||SELECT * FROM ML.PREDICT(MODEL ~s.m~, (SELECT * FROM s.t))
SELECT|read|s.t||SELECT * FROM APPENDS(TABLE s.t, NULL, NULL)
SELECT|read|s.t s.u||SELECT * FROM VECTOR_SEARCH(TABLE s.t, 'c', TABLE s.u, top_k => 5)
SELECT|read|s.t||SELECT * FROM s.f(TABLE s.t)
SELECT|read|s.a||SELECT * FROM s.f((SELECT MAX(x) FROM s.a))
SELECT|read|s.g||SELECT * FROM GRAPH_TABLE(s.g MATCH (n) RETURN n.x)
SELECT|export|s.a||SELECT AI.GENERATE('x', connection_id => 'p.us.c') FROM s.a
SELECT|export|s.a||SELECT AI.CLASSIFY(x, ['a']) FROM s.a
SELECT|export|s.m s.a||SELECT * FROM ML.GENERATE_TEXT(MODEL s.m, TABLE s.a)
SELECT|export|s.m s.a||SELECT * FROM AI.GENERATE_TABLE(MODEL s.m, TABLE s.a)
SELECT|read|s.a||SELECT * FROM AI.FORECAST(TABLE s.a, data_col => 'x')
SELECT|export|||SELECT * FROM ~EXTERNAL_QUERY~('p.us.c', 'SELECT 1')
SELECT|export|s.a||SELECT * FROM s.a WHERE x IN (SELECT y FROM external_query('c', '''DELETE FROM x'''))
SELECT|export|s.o||SELECT * FROM EXTERNAL_OBJECT_TRANSFORM(TABLE s.o, ['SIGNED_URL'])
SELECT|unknown|s.a||FROM s.a |> INSERT INTO s.b
SELECT|unknown|s.a||FROM s.a |> EXPORT DATA OPTIONS (uri = 'gs://b/*')
SELECT|read|s.a s.b s.c||FROM s.a |> LEFT JOIN s.b USING (id) |> UNION ALL (SELECT * FROM s.c), (SELECT 1)
SELECT|read|s.a||FROM s.a |> EXTEND x AS y |> SET z = 1 |> DROP q |> RENAME a AS b |> LIMIT 1
SELECT|read|s.a||SELECT * FROM s.a |> ORDER BY x, y |> SELECT x, y
SELECT|read|s.a||CREATE TEMP FUNCTION f(x INT64) AS (x + 1); SELECT f(1) FROM s.a
SCRIPT|read|s.a s.b||CREATE TEMP FUNCTION f() AS (1); SELECT f() FROM s.a; SELECT f() FROM s.b
SCRIPT|metadata_change|s.a||CREATE FUNCTION s.f() AS (1); SELECT s.f() FROM s.a
INSERT|write|s.a|s.t|INSERT s.t (a, b) WITH x AS (SELECT * FROM s.a) SELECT * FROM x
INSERT|write|s.a s.b|s.t|INSERT INTO s.t VALUES ((SELECT x FROM s.a), (SELECT y FROM s.b))
INSERT|write|q.s.a|q.s.t|INSERT INTO ~q.s.t~ SELECT * FROM ~q.s.a~
INSERT|write||my-project.s.t|INSERT INTO my-project.s.t VALUES (1)
INSERT|unknown|||INSERT INTO (SELECT 1)
UPDATE|write||s.t|UPDATE s.t AS x SET x.a = 1 WHERE EXISTS (SELECT 1 FROM x.items)
UPDATE|write|s.b s.c|s.t|UPDATE s.t SET a = (SELECT MAX(v) FROM s.c) FROM s.b WHERE TRUE
DELETE|write||d.t|DELETE t WHERE TRUE
DELETE|write||s.t|DELETE FROM s.t AS x WHERE EXISTS (SELECT 1 FROM x.items)
DELETE|write|s.b|s.t|DELETE s.t AS x WHERE x.id IN (SELECT id FROM s.b AS x)
MERGE|write|s.b s.c|s.t|MERGE s.t x USING (SELECT * FROM s.b JOIN s.c USING (id)) y ON x.id = y.id WHEN MATCHED THEN UPDATE SET a = 1
MERGE|write|s.b s.c|s.t|MERGE s.t USING s.b ON TRUE WHEN NOT MATCHED BY SOURCE AND (SELECT TRUE FROM s.c) THEN DELETE
TRUNCATE_TABLE|write||q.s.t|TRUNCATE TABLE ~q.s.t~
CREATE_TABLE|write||s.t|CREATE OR REPLACE TABLE s.t (a INT64)
CREATE_TABLE_AS_SELECT|write|s.a s.b|s.t|CREATE TABLE s.t LIKE s.a AS SELECT * FROM s.b
CREATE_TABLE_AS_SELECT|write|s.a|s.t|CREATE TABLE s.t (x INT64 DEFAULT (CAST(1 AS INT64))) AS SELECT * FROM s.a
CREATE_TABLE_AS_SELECT|write|d.x||CREATE TEMP TABLE x AS SELECT * FROM x
CREATE_TABLE|export||s.t|CREATE TABLE s.t (a INT64) WITH CONNECTION ~p.us.c~ OPTIONS (file_format = 'PARQUET', storage_uri = 'gs://b/x')
UNKNOWN|write|s.a|s.t|CREATE TABLE s.t COPY s.a
UNKNOWN|write|s.a|s.t|CREATE OR REPLACE TABLE s.t CLONE s.a FOR SYSTEM_TIME AS OF x
CREATE_VIEW|metadata_change|s.a|s.v|CREATE OR REPLACE VIEW s.v (x OPTIONS (description = 'FROM s.x')) OPTIONS (labels = []) AS (SELECT * FROM s.a)
CREATE_VIEW|export||s.v|CREATE VIEW s.v AS SELECT * FROM EXTERNAL_QUERY('c', 'x')
CREATE_MATERIALIZED_VIEW|metadata_change|s.a|s.v|CREATE MATERIALIZED VIEW IF NOT EXISTS s.v PARTITION BY d AS SELECT * FROM s.a
CREATE_MODEL|metadata_change|s.a|s.m|CREATE OR REPLACE MODEL s.m TRANSFORM (x) OPTIONS (model_type = 'linear_reg') AS SELECT * FROM s.a
CREATE_MODEL|export||s.m|CREATE MODEL s.m REMOTE WITH CONNECTION ~p.us.c~ OPTIONS (endpoint = 'gemini')
CREATE_EXTERNAL_TABLE|export||s.t|CREATE OR REPLACE EXTERNAL TABLE s.t WITH PARTITION COLUMNS OPTIONS (uris = ['gs://b/*'])
CREATE_EXTERNAL_SCHEMA|export|||CREATE EXTERNAL SCHEMA s WITH CONNECTION ~p.us.c~ OPTIONS (external_source = 'x')
CREATE_CONNECTION|export|||CREATE CONNECTION ~p.us.c~ OPTIONS (connection_type = 'CLOUD_RESOURCE')
CREATE_DATA_POLICY|access_change|||CREATE DATA_POLICY ~p.us.x~ OPTIONS (data_policy_type = 'RAW_DATA_ACCESS_POLICY')
CREATE_SCHEMA|metadata_change|||CREATE SCHEMA IF NOT EXISTS ~q.s~ OPTIONS (location = 'EU')
CREATE_VECTOR_INDEX|metadata_change||s.t|CREATE OR REPLACE VECTOR INDEX i ON s.t(c) OPTIONS (index_type = 'IVF')
CREATE_RESERVATION|metadata_change|||CREATE RESERVATION ~p.region-us.r~ OPTIONS (slot_capacity = 100)
CREATE_PROPERTY_GRAPH|unknown||s.g|CREATE PROPERTY GRAPH s.g NODE TABLES (s.a, s.b)
CREATE_FUNCTION|metadata_change|s.a||CREATE OR REPLACE FUNCTION s.f() AS ((SELECT MAX(x) FROM s.a))
CREATE_FUNCTION|metadata_change|||CREATE AGGREGATE FUNCTION s.f(x INT64) RETURNS INT64 AS (SUM(x))
CREATE_FUNCTION|export|||CREATE FUNCTION s.f(x INT64) RETURNS INT64 LANGUAGE python WITH CONNECTION ~p.us.c~ OPTIONS (entry_point = 'f') AS r"""import os"""
CREATE_PROCEDURE|metadata_change|||CREATE PROCEDURE s.p(x INT64, OUT y INT64) OPTIONS (strict_mode = FALSE) BEGIN DECLARE a INT64; IF x > 1 THEN SET y = 1; ELSE SET y = 2; END IF; END
CREATE_PROCEDURE|metadata_change|s.t||CREATE OR REPLACE PROCEDURE s.p() BEGIN BEGIN DELETE FROM s.t WHERE TRUE; EXCEPTION WHEN ERROR THEN SELECT CASE WHEN TRUE THEN 1 END; END; END;
CREATE_PROCEDURE|access_change|s.t||CREATE PROCEDURE s.p() BEGIN GRANT ~r~ ON TABLE s.t TO 'user:a@example.com'; END
CREATE_PROCEDURE|export|s.a||CREATE PROCEDURE s.p() BEGIN EXPORT DATA OPTIONS (uri = 'gs://b/*') AS SELECT * FROM s.a; END
CREATE_PROCEDURE|unknown|||CREATE PROCEDURE s.p() BEGIN FROBNICATE; END
CREATE_PROCEDURE|export|||CREATE PROCEDURE s.p() WITH CONNECTION ~p.us.c~ OPTIONS (engine = 'SPARK') LANGUAGE PYTHON AS R"""x"""
SCRIPT|write||s.t|CREATE PROCEDURE s.p() BEGIN SELECT 1; END; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|CREATE PROCEDURE s.p() BEGIN BEGIN; COMMIT; END; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|CREATE PROCEDURE s.p() BEGIN BEGIN TRANSACTION; COMMIT; END; DELETE FROM s.t WHERE TRUE
SCRIPT|write||s.t|CREATE PROCEDURE s.p() BEGIN SELECT begin, x.begin FROM UNNEST([1]) begin; END; DELETE FROM s.t WHERE TRUE
SCRIPT|write|d.u|d.procedure s.t|CREATE VIEW procedure AS SELECT begin FROM u; DELETE FROM s.t WHERE TRUE
UNKNOWN|unknown|s.t||CREATE PROCEDURE s.p() BEGIN SELECT CASE WHEN TRUE THEN 1 END while; END; DELETE FROM s.t WHERE TRUE
UNKNOWN|unknown|||CREATE PROCEDURE s.p() BEGIN SELECT 1;
CREATE_ROW_ACCESS_POLICY|access_change|s.x|s.t|CREATE OR REPLACE ROW ACCESS POLICY IF NOT EXISTS p ON s.t GRANT TO ('group:g@example.com') FILTER USING (id IN (SELECT id FROM s.x))
DROP_ROW_ACCESS_POLICY|access_change||s.t|DROP ROW ACCESS POLICY IF EXISTS p ON s.t
ALTER_TABLE|write||s.t|ALTER TABLE IF EXISTS s.t DROP COLUMN IF EXISTS a
ALTER_TABLE|metadata_change||s.t|ALTER TABLE s.t RENAME TO u
ALTER_TABLE|access_change||s.t|ALTER TABLE s.t ALTER COLUMN c SET DATA POLICY (~p.us.x~)
ALTER_VIEW|metadata_change||s.v|ALTER VIEW s.v SET OPTIONS (description = 'x')
ALTER_MATERIALIZED_VIEW|metadata_change||s.v|ALTER MATERIALIZED VIEW s.v SET OPTIONS (enable_refresh = TRUE)
ALTER_MODEL|metadata_change||s.m|ALTER MODEL s.m SET OPTIONS (description = 'x')
ALTER_PROJECT|access_change|||ALTER PROJECT p SET OPTIONS (~region-us.default_time_zone~ = 'x')
ALTER_BI_CAPACITY|metadata_change|||ALTER BI_CAPACITY ~p.region-us.default~ SET OPTIONS (size_gb = 1)
ALTER_VECTOR_INDEX|metadata_change||s.t|ALTER VECTOR INDEX i ON s.t REBUILD
DROP_EXTERNAL_TABLE|metadata_change||s.t|DROP EXTERNAL TABLE s.t
DROP_SNAPSHOT_TABLE|write||s.t|DROP SNAPSHOT TABLE IF EXISTS s.t
DROP_MATERIALIZED_VIEW|write||s.v|DROP MATERIALIZED VIEW s.v
DROP_MODEL|metadata_change||s.m|DROP MODEL s.m
DROP_FUNCTION|metadata_change|||DROP FUNCTION s.f
DROP_TABLE_FUNCTION|metadata_change|||DROP TABLE FUNCTION s.f
DROP_PROCEDURE|metadata_change|||DROP PROCEDURE IF EXISTS s.f
DROP_SEARCH_INDEX|metadata_change||s.t|DROP SEARCH INDEX i ON s.t
DROP_CONNECTION|export|||DROP CONNECTION ~p.us.c~
DROP_DATA_POLICY|access_change|||DROP DATA_POLICY ~p.us.x~
UNDROP_SCHEMA|write|||UNDROP SCHEMA s
UNKNOWN|unknown|||DROP FROB s.t
UNKNOWN|unknown|||CREATE OR REPLACE FROB s.t
GRANT_ON_VIEW|access_change||s.v|GRANT ~roles/x~ ON VIEW s.v TO 'allUsers'
GRANT_ON_TABLE|access_change||s.t|GRANT ~roles/x~ ON EXTERNAL TABLE s.t TO 'allUsers'
GRANT_ON_PROJECT|access_change|||GRANT ~roles/x~ ON PROJECT p TO 'user:a@example.com'
REVOKE_ON_SCHEMA|access_change|||REVOKE ~roles/x~ ON SCHEMA ~q.s~ FROM 'user:a@example.com'
UNKNOWN|access_change|||GRANT ~roles/x~ ON FUNCTION s.f TO 'user:a@example.com'
UNKNOWN|unknown|||GRANT x
EXPORT_DATA|export|s.a||EXPORT DATA WITH CONNECTION ~p.us.c~ OPTIONS (uri = 's3://b/*') AS (WITH t AS (SELECT * FROM s.a) SELECT * FROM t)
EXPORT_MODEL|export|s.m||EXPORT MODEL s.m OPTIONS (uri = 'gs://b/m')
EXPORT_METADATA|export|s.t||EXPORT TABLE METADATA FROM s.t
LOAD_DATA|write||s.t|LOAD DATA OVERWRITE s.t (a INT64) PARTITION BY d FROM FILES (uris = ['gs://b/x'], format = 'CSV') WITH CONNECTION ~p.us.c~
LOAD_DATA|write|||LOAD DATA INTO TEMP TABLE x FROM FILES (uris = ['gs://b/x'], format = 'CSV')
CALL|unknown|s.a||CALL s.f((SELECT MAX(x) FROM s.a))
CALL|unknown|||CALL BQ.JOBS.CANCEL('p.j')
SCRIPT|unknown|s.a||EXECUTE IMMEDIATE (SELECT q FROM s.a) INTO x USING 1
SCRIPT|read|s.a||DECLARE x INT64 DEFAULT (SELECT MAX(x) FROM s.a)
SCRIPT|read|s.a||SET (x, y) = (SELECT AS STRUCT a, b FROM s.a)
BEGIN_TRANSACTION|metadata_read|||BEGIN TRANSACTION
COMMIT_TRANSACTION|metadata_read|||COMMIT
ROLLBACK_TRANSACTION|metadata_read|||ROLLBACK TRANSACTION
SCRIPT|write||s.t|BEGIN; DELETE FROM s.t WHERE TRUE; COMMIT
SCRIPT|write||s.t|CASE WHEN TRUE THEN DELETE FROM s.t WHERE TRUE; END CASE
SCRIPT|write|s.a s.b|s.t|CASE (SELECT x FROM s.a) WHEN 1 THEN SELECT 1; WHEN (SELECT y FROM s.b) THEN DELETE FROM s.t WHERE TRUE; ELSE SELECT 2; END CASE
SCRIPT|write||s.t|CASE CASE WHEN TRUE THEN 1 END WHEN 1 THEN DELETE FROM s.t WHERE TRUE; END CASE
SCRIPT|write||s.t|IF CASE WHEN TRUE THEN TRUE ELSE FALSE END THEN DELETE FROM s.t WHERE TRUE; END IF
SCRIPT|write||s.t s.u|IF FALSE THEN DELETE FROM s.t WHERE TRUE; ELSEIF TRUE THEN DELETE FROM s.u WHERE TRUE; END IF
SCRIPT|write||s.t|x: LOOP DELETE FROM s.t WHERE TRUE; LEAVE x; END LOOP x
SCRIPT|write||s.t|~x~: BEGIN DELETE FROM s.t WHERE TRUE; END
SCRIPT|write||s.t|x: WHILE TRUE DO DELETE FROM s.t WHERE TRUE; END WHILE x
SCRIPT|write|s.a|s.t|x: FOR r IN (SELECT * FROM s.a) DO DELETE FROM s.t WHERE TRUE; END FOR
SCRIPT|write|s.a|s.t|REPEAT DELETE FROM s.t WHERE TRUE; UNTIL (SELECT TRUE FROM s.a) END REPEAT
SCRIPT|unknown|s.t||WHILE do < 3 DO DELETE FROM s.t WHERE TRUE; END WHILE
SCRIPT|access_change||s.t|BEGIN SELECT 1; EXCEPTION WHEN ERROR THEN BEGIN GRANT ~r~ ON TABLE s.t TO 'allUsers'; END; END
SCRIPT|write|s.a|d.x|IF FALSE THEN CREATE TEMP TABLE x AS SELECT * FROM s.a; END IF; DELETE FROM x WHERE TRUE
SCRIPT|write|d.x||CREATE TEMP TABLE x AS SELECT 1; DROP TABLE x; SELECT * FROM x
SCRIPT|write|||CREATE TEMP TABLE x (a INT64); INSERT INTO x VALUES (1); DELETE FROM X WHERE TRUE
UNKNOWN|unknown|||PRAGMA x
UNKNOWN|unknown|s.a||EXPLAIN SELECT * FROM s.a
UNKNOWN|unknown|||SELECT $$x$$ FROM "unclosed
UNKNOWN|unknown|||ＳＥＬＥＣＴ 1
`
