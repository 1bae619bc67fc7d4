ALTER TABLE "hosts" ADD COLUMN "expected_accounts" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
-- What the upstream relay counted was not kept until now: a host that outgrew the limit of a small one goes on.
UPDATE "hosts" SET "expected_accounts" = "account_count" WHERE "source" = 'upstream';
