# A bucket for pgproof, and a role for each of its powers. The policies are those beside this folder.

terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

locals {
  powers = toset(["agent", "verifier", "restorer", "pruner"])
}

# `aws`, or that of China or GovCloud: the policies are written for the first.
data "aws_partition" "current" {}

resource "aws_s3_bucket" "backups" {
  bucket              = var.bucket
  object_lock_enabled = true

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "backups" {
  bucket = aws_s3_bucket.backups.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_public_access_block" "backups" {
  bucket                  = aws_s3_bucket.backups.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "backups" {
  bucket = aws_s3_bucket.backups.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# Beside the encryption that pgproof does itself.
resource "aws_s3_bucket_server_side_encryption_configuration" "backups" {
  bucket = aws_s3_bucket.backups.id

  rule {
    bucket_key_enabled = var.use_kms_key

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.use_kms_key ? "aws:kms" : "AES256"
      kms_master_key_id = var.kms_key
    }
  }

  lifecycle {
    precondition {
      condition     = var.use_kms_key == (var.kms_key != null)
      error_message = "use_kms_key and kms_key belong together."
    }
  }
}

# No default retention: leases and pins are written over and must not be locked. The policy's object_lock locks the rest.
resource "aws_s3_bucket_lifecycle_configuration" "backups" {
  bucket     = aws_s3_bucket.backups.id
  depends_on = [aws_s3_bucket_versioning.backups]

  # Nothing expires by age but what is no backup: pgproof's retention alone removes those.
  rule {
    id     = "stale-uploads"
    status = "Enabled"

    filter {
      prefix = "${var.prefix}/"
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = var.stale_upload_days
    }
  }

  rule {
    id     = "older-versions"
    status = "Enabled"

    filter {
      prefix = "${var.prefix}/"
    }

    noncurrent_version_expiration {
      noncurrent_days = var.older_version_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }
}

data "aws_iam_policy_document" "tls_only" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.backups.arn, "${aws_s3_bucket.backups.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "backups" {
  bucket     = aws_s3_bucket.backups.id
  policy     = data.aws_iam_policy_document.tls_only.json
  depends_on = [aws_s3_bucket_public_access_block.backups]
}

resource "aws_iam_role" "power" {
  for_each           = local.powers
  name               = "${var.name}-${each.key}"
  assume_role_policy = var.trust[each.key]
}

resource "aws_iam_role_policy" "power" {
  for_each = local.powers
  name     = "pgproof"
  role     = aws_iam_role.power[each.key].id
  policy = replace(
    replace(
      replace(file("${path.module}/../${each.key}.json"), "arn:aws:", "arn:${data.aws_partition.current.partition}:"),
      "BUCKET", var.bucket
    ),
    "PREFIX", var.prefix
  )
}

resource "aws_iam_role_policy" "kms" {
  for_each = var.use_kms_key ? local.powers : toset([])
  name     = "pgproof-kms"
  role     = aws_iam_role.power[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["kms:GenerateDataKey", "kms:Decrypt"]
      Resource = [var.kms_key]
    }]
  })
}
