"""Makes a bucket and one user for each policy in a folder, and from then on has moto ask who is there."""

import json
import pathlib
import sys
import urllib.request

import boto3

endpoint, folder, bucket, prefix = sys.argv[1:]
anybody = {
    "endpoint_url": endpoint,
    "region_name": "us-east-1",
    "aws_access_key_id": "x",
    "aws_secret_access_key": "x",
}
boto3.client("s3", **anybody).create_bucket(Bucket=bucket)
iam = boto3.client("iam", **anybody)
users = {}
for path in sorted(pathlib.Path(folder).glob("*.json")):
    text = path.read_text().replace("BUCKET", bucket).replace("PREFIX", prefix)
    policy = json.loads(text)
    for statement in policy["Statement"]:
        # moto takes a condition that it cannot judge for one that is not met.
        statement.pop("Condition", None)
    user = path.stem
    iam.create_user(UserName=user)
    iam.put_user_policy(UserName=user, PolicyName=user, PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=user)["AccessKey"]
    users[user] = {"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
ask = urllib.request.Request(
    endpoint + "/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST"
)
urllib.request.urlopen(ask).read()
print(json.dumps(users))
