-- Accounts that a listing brought were not counted with their first event, but taken off when they moved or were
-- deleted: all are counted once anew, but those of which nothing but a listing told. Reads the whole table.
WITH "counted" AS MATERIALIZED (
  SELECT "host_id", count(*) AS "accounts" FROM "accounts"
  WHERE ("rev" IS NOT NULL OR "identity_at_ms" <> 0 OR "listed_rev" IS NULL)
    AND "upstream_status" IS DISTINCT FROM 'deleted' AND "own_status" IS DISTINCT FROM 'throttled'
  GROUP BY "host_id"
)
UPDATE "hosts" SET "account_count" =
  coalesce((SELECT "accounts" FROM "counted" WHERE "counted"."host_id" = "hosts"."host_id"), 0);
--> statement-breakpoint
UPDATE "hosts" SET "expected_accounts" = greatest("expected_accounts", "account_count") WHERE "source" = 'upstream';
